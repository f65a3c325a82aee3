// Colors, line charts on canvases (uPlot), and small SVG drawings.

const COLORS = 8;
const colorNumbers = new Map();

/** The number of a trait's color, the same everywhere on the page. */
function colorNumber(trait) {
  if (!colorNumbers.has(trait)) colorNumbers.set(trait, colorNumbers.size);
  return colorNumbers.get(trait);
}

/** The CSS class that sets `color` to the color of a trait. */
function colorClass(trait) {
  const index = colorNumber(trait);
  return `c${index % COLORS}${index >= COLORS ? " repeated" : ""}`;
}

/** The color of a trait on a canvas; beyond eight traits, colors repeat with dashes. */
function lineColor(trait) {
  const index = colorNumber(trait);
  return { color: cssVariable(`--c${index % COLORS}`), dash: index >= COLORS ? [5, 3] : undefined };
}

const cssVariable = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// ---- colors of scores

const rgbOf = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** The background of a calibrated score; empty near zero. palette.py computes the same colors. */
function backgroundOf(score, { below, above, faint, limit }) {
  const size = Math.min(Math.abs(score), limit);
  if (!(size >= faint)) return "";
  const [pale, middle, vivid] = (score < 0 ? below : above).map(rgbOf);
  const share = ((size - faint) / (limit - faint)) * 2;
  const [from, to, part] = share <= 1 ? [pale, middle, share] : [middle, vivid, share - 1];
  return `rgb(${from.map((value, k) => Math.round(value + (to[k] - value) * part)).join(", ")})`;
}

// ---- line charts

const FONT = "12px system-ui, -apple-system, 'Segoe UI', 'Noto Sans', sans-serif";

const charts = new Set();

/** Draws a solid line at zero and dashed lines at the marks, below the curves. */
function drawMarks(plot, marks) {
  const { ctx, bbox } = plot;
  const drawLevel = (value, dash, alpha) => {
    const { min, max } = plot.scales.y;
    if (!(value > min && value < max)) return;
    const y = Math.round(plot.valToPos(value, "y", true));
    ctx.globalAlpha = alpha;
    ctx.setLineDash(dash);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
  };
  ctx.save();
  ctx.lineWidth = devicePixelRatio;
  ctx.strokeStyle = cssVariable("--quiet");
  drawLevel(0, [], 0.55);
  for (const mark of marks) drawLevel(mark, [4 * devicePixelRatio, 4 * devicePixelRatio], 0.75);
  ctx.restore();
}

/** The range of an axis: the data and the values in `include`, with a margin of 6 %. */
function withMargin(low, high, include) {
  const ends = [low, high, ...include].filter(Number.isFinite);
  const [from, to] = ends.length > 0 ? [Math.min(...ends), Math.max(...ends)] : [0, 1];
  const margin = (to - from || 1) * 0.06;
  return [from - margin, to + margin];
}

const asNumber = (value) => minus(String(Number(value.toPrecision(6))));

function axis(side, { name, grid, size, wholeNumbers, format }) {
  return {
    side,
    font: FONT,
    size,
    gap: 6,
    ...(name ? { label: name, labelSize: 20, labelGap: 2, labelFont: FONT } : {}),
    stroke: cssVariable("--quiet"),
    grid: { show: grid, stroke: cssVariable("--line"), width: 1 },
    ticks: { show: false },
    ...(wholeNumbers
      ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] }
      : {}),
    // A date is wider than a number.
    ...(format ? { space: 90 } : {}),
    values: (_, ticks) => ticks.map((value) => (value === null ? "" : (format ?? asNumber)(value))),
  };
}

function seriesOf(line) {
  const { color, dash } = lineColor(line.trait);
  const strong = line.chosen ?? true;
  return {
    stroke: color,
    dash,
    width: line.width ?? (strong ? 2 : 1),
    alpha: strong ? 1 : (line.faint ?? 0.45),
    spanGaps: false,
    points: line.dots
      ? { show: true, size: 9, fill: color, stroke: color, filter: () => line.dots }
      : { show: false },
  };
}

/**
 * A line chart that fills `host`. Drag to zoom; double-click to see everything.
 *
 * xs       x coordinate of each value
 * lines    {trait, values, chosen, dots} each; put the chosen one last, so that it is drawn on top
 * marks    y values with a dashed line
 * include  y values that are always visible
 * onHover  called with the index under the pointer, or null when it leaves
 * onPick   called with the clicked index
 * xLabel   makes the text of an x coordinate; a number by default
 * room     the x axis goes at least so far, so that a line that grows does not jump
 */
class LineChart {
  constructor(host, { xs, lines, marks = [], include = [], names = ["", ""], ...more }) {
    const { onHover, onPick, xLabel, room = -Infinity } = more;
    this.host = host;
    this.xs = xs;
    this.lines = lines;
    this.room = room;
    this.xLabel = xLabel;
    this.redraw = () => {
      const zoom = this.zoom;
      this.close();
      this.make(lines, marks, include, names, onHover, onPick);
      charts.add(this);
      if (zoom) this.plot.setScale("x", zoom);
      this.moveTo(this.at);
    };
    this.at = null;
    this.make(lines, marks, include, names, onHover, onPick);
    charts.add(this);
    this.watcher = new ResizeObserver(() => this.fit());
    this.watcher.observe(host);
  }

  make(lines, marks, include, names, onHover, onPick) {
    const options = {
      width: Math.max(this.host.clientWidth, 200),
      height: Math.max(this.host.clientHeight, 120),
      padding: [10, 14, 0, 0],
      legend: { show: false },
      scales: {
        x: {
          time: false,
          range: (_, low, high) => this.range(low, high),
        },
        y: { range: (_, low, high) => withMargin(low, high, include) },
      },
      axes: [
        axis(2, { name: names[0], grid: false, size: 26, wholeNumbers: true, format: this.xLabel }),
        axis(3, { name: names[1], grid: true, size: 40 }),
      ],
      series: [{}, ...lines.map(seriesOf)],
      cursor: {
        y: false,
        drag: { x: true, y: false, dist: 6 },
        move: (plot, left, top) => [
          left < 0 ? left : plot.valToPos(this.xs[plot.posToIdx(left)], "x"),
          top,
        ],
        bind: { mouseleave: () => null },
        points: { show: (plot, index) => this.point(plot, index, lines) },
      },
      hooks: {
        drawAxes: [(plot) => drawMarks(plot, marks)],
        draw: [() => this.placeCursor()],
      },
    };
    this.plot = new uPlot(options, this.data, this.host);
    this.listen(onHover, onPick);
  }

  get data() {
    const known = this.lines.map((line) =>
      Array.from(line.values, (value) => (Number.isFinite(value) ? value : null)),
    );
    return [this.xs, ...known];
  }

  /** The range of the x axis for the part that is wanted. */
  range(low, high) {
    const [first, last] = [this.xs[0] ?? 0, this.xs.at(-1) ?? 1];
    if (low !== null && low !== high && (low > first || high < last)) return [low, high];
    const end = Math.max(last, this.room);
    return first === end ? [first - 1, end + 1] : [first, end];
  }

  /** Draw new values of the same lines. */
  update(xs, values) {
    this.xs = xs;
    this.lines.forEach((line, k) => (line.values = values[k]));
    this.plot.setData(this.data);
  }

  /** Listens to the pointer, because uPlot also reports cursor moves that this script makes. */
  listen(onHover, onPick) {
    const { over } = this.plot;
    const indexOf = (event) =>
      this.plot.posToIdx(event.clientX - over.getBoundingClientRect().left);
    over.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse") onHover?.(indexOf(event));
    });
    over.addEventListener("pointerleave", () => onHover?.(null));
    over.addEventListener("click", (event) => onPick?.(indexOf(event)));
  }

  /** The dot on the chosen line; the other lines have none. */
  point(plot, index, lines) {
    if (lines[index - 1].chosen === false) return false;
    const dot = element("div", "u-cursor-pt");
    Object.assign(dot.style, {
      width: "9px",
      height: "9px",
      marginLeft: "-4.5px",
      marginTop: "-4.5px",
    });
    return dot;
  }

  get zoom() {
    const { min, max } = this.plot.scales.x;
    return min > (this.xs[0] ?? min) || max < (this.xs.at(-1) ?? max) ? { min, max } : null;
  }

  /** Show the part from `min` to `max`; null shows everything. */
  show(zoom) {
    const [first, last] = [this.xs[0] ?? 0, this.xs.at(-1) ?? 1];
    const part = zoom ?? { min: first, max: last };
    const [min, max] = [Math.max(first, part.min), Math.min(last, part.max)];
    if (max > min) this.plot.setScale("x", { min, max });
  }

  /** Zoom in (factor below 1) or out around the cursor. */
  zoomBy(factor) {
    const { min, max } = this.plot.scales.x;
    const middle = Math.min(max, Math.max(min, this.xs[this.at ?? 0] ?? min));
    const size = Math.max(
      (max - min) * factor,
      Math.min(4, (this.xs.at(-1) ?? 1) - (this.xs[0] ?? 0)),
    );
    const from = Math.max(
      this.xs[0] ?? 0,
      Math.min(middle - size / 2, (this.xs.at(-1) ?? 1) - size),
    );
    this.show({ min: from, max: from + size });
  }

  /** Put the cursor at an index; with `follow`, a zoomed chart scrolls to it. */
  moveTo(index, follow) {
    this.at = index;
    if (index === null || this.xs[index] === undefined) return;
    const x = this.xs[index];
    const { min, max } = this.plot.scales.x;
    if (follow && (x < min || x > max))
      this.show({ min: Math.min(x, this.xs.at(-1) - (max - min)), max: x + (max - min) });
    else this.placeCursor();
  }

  /** Places the cursor. uPlot knows the scales only after drawing, so each draw calls this too. */
  placeCursor() {
    const x = this.xs[this.at ?? -1];
    const { min, max } = this.plot.scales.x;
    if (x === undefined || !Number.isFinite(min)) return;
    const left = x < min || x > max ? -10 : this.plot.valToPos(x, "x");
    this.plot.setCursor({ left, top: left < 0 ? -10 : 1 }, false);
  }

  fit(width = this.host.clientWidth, height = this.host.clientHeight) {
    if (width < 1 || (width === this.plot.width && height === this.plot.height)) return;
    this.plot.setSize({ width, height });
  }

  /** Remove the drawing, but keep listening to the size of the host. */
  close() {
    charts.delete(this);
    this.plot.destroy();
  }

  end() {
    this.watcher.disconnect();
    this.close();
  }
}

const redrawCharts = () => [...charts].forEach((chart) => chart.redraw());

// ---- drawings in SVG

/** Adds an SVG element. The namespace comes from the parent, so this file contains no URL. */
function draw(parent, name, attributes = {}) {
  const made = document.createElementNS(parent.namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
}

const SVG = () => document.getElementById("svg").content.firstElementChild.cloneNode(true);

/** Scores of both polarities in bins of ten: positive upwards, negative downwards. */
function drawHistogram({ positive, negative }, label) {
  const svg = SVG();
  svg.setAttribute("viewBox", "0 0 204 112");
  svg.setAttribute("aria-label", label);
  svg.setAttribute("class", "histogram");
  const most = Math.max(1, ...positive, ...negative);
  const height = (count) => (count / most) * 44;
  draw(svg, "line", { class: "half", x1: 102, x2: 102, y1: 2, y2: 98 });
  positive.forEach((count, k) =>
    draw(svg, "rect", {
      class: "positive",
      x: 3 + k * 20,
      width: 18,
      y: 50 - height(count),
      height: height(count),
    }),
  );
  negative.forEach((count, k) =>
    draw(svg, "rect", {
      class: "negative",
      x: 3 + k * 20,
      width: 18,
      y: 50,
      height: height(count),
    }),
  );
  draw(svg, "line", { class: "base", x1: 2, x2: 202, y1: 50, y2: 50 });
  [
    [0, 2, "start"],
    [50, 102, "middle"],
    [100, 202, "end"],
  ].forEach(([score, x, anchor]) => {
    draw(svg, "text", { x, y: 109, "text-anchor": anchor }).textContent = score;
  });
  return svg;
}

/** One trait at every layer and token, one pixel each; layer 0 is at the bottom. */
function drawHeatMap(canvas, layers, count, palette) {
  canvas.width = Math.max(1, count);
  canvas.height = Math.max(1, layers.length);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  layers.forEach((scores, layer) =>
    scores.forEach((score, i) => {
      const background = backgroundOf(score, palette);
      if (background === "") return;
      context.fillStyle = background;
      context.fillRect(i, layers.length - 1 - layer, 1, 1);
    }),
  );
}
