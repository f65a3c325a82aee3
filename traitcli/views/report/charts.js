// Draws: colours of the terminal, line charts on canvases (uPlot), and small drawings in SVG.

const COLOURS = 8;
const colours = new Map();

/** The number of a trait's colour, the same all over the page. */
function numberOf(trait) {
  if (!colours.has(trait)) colours.set(trait, colours.size);
  return colours.get(trait);
}

/** A class that sets `color` to a trait's. */
function colourOf(trait) {
  const index = numberOf(trait);
  return `c${index % COLOURS}${index >= COLOURS ? " again" : ""}`;
}

/** A trait's colour for a canvas; the second round of colours is dashed. */
function inkOf(trait) {
  const index = numberOf(trait);
  return { ink: styleOf(`--c${index % COLOURS}`), dash: index >= COLOURS ? [5, 3] : undefined };
}

const styleOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// ---- the colours of scores

const hexes = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** The ground under a calibrated score, as the terminal has it; empty near zero. */
function groundOf(score, { below, above, faint, limit }) {
  const size = Math.min(Math.abs(score), limit);
  if (!(size >= faint)) return "";
  const [pale, middle, vivid] = (score < 0 ? below : above).map(hexes);
  const share = ((size - faint) / (limit - faint)) * 2;
  const [from, to, part] = share <= 1 ? [pale, middle, share] : [middle, vivid, share - 1];
  return `rgb(${from.map((value, k) => Math.round(value + (to[k] - value) * part)).join(", ")})`;
}

// ---- line charts

const FONT = "12px system-ui, -apple-system, 'Segoe UI', 'Noto Sans', sans-serif";

const charts = new Set();

/** Dashed lines at values that mean something, and a full one at zero, under the curves. */
function drawMarks(plot, marks) {
  const { ctx, bbox } = plot;
  const across = (value, dash, alpha) => {
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
  ctx.strokeStyle = styleOf("--quiet");
  across(0, [], 0.55);
  for (const mark of marks) across(mark, [4 * devicePixelRatio, 4 * devicePixelRatio], 0.75);
  ctx.restore();
}

/** A little air above and below, with the values in `include` always to be seen. */
function withAir(low, high, include) {
  const ends = [low, high, ...include].filter(Number.isFinite);
  const [from, to] = ends.length > 0 ? [Math.min(...ends), Math.max(...ends)] : [0, 1];
  const air = (to - from || 1) * 0.06;
  return [from - air, to + air];
}

function axis(side, { name, grid, size, whole: isWhole }) {
  return {
    side, font: FONT, size, gap: 6,
    ...(name ? { label: name, labelSize: 20, labelGap: 2, labelFont: FONT } : {}),
    stroke: styleOf("--quiet"),
    grid: { show: grid, stroke: styleOf("--line"), width: 1 },
    ticks: { show: false },
    ...(isWhole ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] } : {}),
    values: (_, ticks) => ticks.map((value) => (value === null ? "" : minus(String(Number(value.toPrecision(6)))))),
  };
}

function seriesOf(line) {
  const { ink, dash } = inkOf(line.trait);
  const strong = line.chosen ?? true;
  return {
    stroke: ink, dash, width: line.width ?? (strong ? 2 : 1), alpha: strong ? 1 : line.faint ?? 0.45, spanGaps: false,
    points: line.dots
      ? { show: true, size: 9, fill: ink, stroke: ink, filter: () => line.dots }
      : { show: false },
  };
}

/**
 * A line chart in `host`, which it fills; drag over it to zoom, double-click to see all again.
 *
 * xs      where the values lie
 * lines   {trait, values, chosen, dots} each: the chosen one is strongest and should come last
 * marks   values with a dashed line; include: values always in sight
 * look    called with the index under the pointer, null when it leaves; pick: with the one clicked
 */
class LineChart {
  constructor(host, { xs, lines, marks = [], include = [], names = ["", ""], look, pick }) {
    this.host = host;
    this.xs = xs;
    this.again = () => {
      const zoom = this.zoom;
      this.close();
      this.make(lines, marks, include, names, look, pick);
      charts.add(this);
      if (zoom) this.plot.setScale("x", zoom);
      this.moveTo(this.at);
    };
    this.at = null;
    this.make(lines, marks, include, names, look, pick);
    charts.add(this);
    this.watcher = new ResizeObserver(() => this.fit());
    this.watcher.observe(host);
  }

  make(lines, marks, include, names, look, pick) {
    const known = lines.map((line) => Array.from(line.values, (value) => (Number.isFinite(value) ? value : null)));
    const [first, last] = [this.xs[0] ?? 0, this.xs.at(-1) ?? 1];
    const whole_ = first === last ? [first - 1, last + 1] : [first, last];
    const options = {
      width: Math.max(this.host.clientWidth, 200), height: Math.max(this.host.clientHeight, 120),
      padding: [10, 14, 0, 0], legend: { show: false },
      scales: {
        x: { time: false, range: (_, low, high) => (low === null || low === high ? whole_ : [low, high]) },
        y: { range: (_, low, high) => withAir(low, high, include) },
      },
      axes: [
        axis(2, { name: names[0], grid: false, size: 26, whole: true }),
        axis(3, { name: names[1], grid: true, size: 40 }),
      ],
      series: [{}, ...lines.map(seriesOf)],
      cursor: {
        y: false, drag: { x: true, y: false, dist: 6 },
        move: (plot, left, top) => [left < 0 ? left : plot.valToPos(this.xs[plot.posToIdx(left)], "x"), top],
        bind: { mouseleave: () => null },
        points: { show: (plot, index) => this.point(plot, index, lines) },
      },
      hooks: {
        drawAxes: [(plot) => drawMarks(plot, marks)],
        draw: [() => this.place()],
      },
    };
    this.plot = new uPlot(options, [this.xs, ...known], this.host);
    this.listen(look, pick);
  }

  /** uPlot would tell of every move of its cursor, also of ours; so the pointer is listened to itself. */
  listen(look, pick) {
    const { over } = this.plot;
    const indexOf = (event) => this.plot.posToIdx(event.clientX - over.getBoundingClientRect().left);
    over.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") look?.(indexOf(event)); });
    over.addEventListener("pointerleave", () => look?.(null));
    over.addEventListener("click", (event) => pick?.(indexOf(event)));
  }

  /** The dot that goes along the chosen line, and none on the others. */
  point(plot, index, lines) {
    if (lines[index - 1].chosen === false) return false;
    const dot = element("div", "u-cursor-pt");
    Object.assign(dot.style, { width: "9px", height: "9px", marginLeft: "-4.5px", marginTop: "-4.5px" });
    return dot;
  }

  get zoom() {
    const { min, max } = this.plot.scales.x;
    return min > (this.xs[0] ?? min) || max < (this.xs.at(-1) ?? max) ? { min, max } : null;
  }

  /** Show the part from `min` to `max`; all of it without. */
  show(zoom) {
    const [first, last] = [this.xs[0] ?? 0, this.xs.at(-1) ?? 1];
    const part = zoom ?? { min: first, max: last };
    const [min, max] = [Math.max(first, part.min), Math.min(last, part.max)];
    if (max > min) this.plot.setScale("x", { min, max });
  }

  /** Half or twice as much around the cursor. */
  zoomBy(factor) {
    const { min, max } = this.plot.scales.x;
    const middle = Math.min(max, Math.max(min, this.xs[this.at ?? 0] ?? min));
    const size = Math.max((max - min) * factor, Math.min(4, (this.xs.at(-1) ?? 1) - (this.xs[0] ?? 0)));
    const from = Math.max(this.xs[0] ?? 0, Math.min(middle - size / 2, (this.xs.at(-1) ?? 1) - size));
    this.show({ min: from, max: from + size });
  }

  /** Put the cursor at an index; a zoomed chart moves along if it is to `follow`. */
  moveTo(index, follow) {
    this.at = index;
    if (index === null || this.xs[index] === undefined) return;
    const x = this.xs[index];
    const { min, max } = this.plot.scales.x;
    if (follow && (x < min || x > max)) this.show({ min: Math.min(x, this.xs.at(-1) - (max - min)), max: x + (max - min) });
    else this.place();
  }

  /** The cursor where it belongs, as soon as the scales are settled; hidden where that is out of sight. */
  place() {
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

  /** Take it away for another one. */
  close() {
    charts.delete(this);
    this.plot.destroy();
  }

  end() {
    this.watcher.disconnect();
    this.close();
  }
}

const redrawCharts = () => [...charts].forEach((chart) => chart.again());

// ---- drawings in SVG

/** Adds an SVG element; the name space comes from the parent, so no address stands in this file. */
function draw(parent, name, attributes = {}) {
  const made = document.createElementNS(parent.namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
}

const SVG = () => document.getElementById("svg").content.firstElementChild.cloneNode(true);

/** Scores of both polarities in bins of ten: positive ones upwards, negative ones downwards. */
function drawHistogram({ positive, negative }, label) {
  const svg = SVG();
  svg.setAttribute("viewBox", "0 0 204 112");
  svg.setAttribute("aria-label", label);
  svg.setAttribute("class", "histogram");
  const most = Math.max(1, ...positive, ...negative);
  const height = (count) => (count / most) * 44;
  draw(svg, "line", { class: "half", x1: 102, x2: 102, y1: 2, y2: 98 });
  positive.forEach((count, k) => draw(svg, "rect", {
    class: "positive", x: 3 + k * 20, width: 18, y: 50 - height(count), height: height(count),
  }));
  negative.forEach((count, k) => draw(svg, "rect", {
    class: "negative", x: 3 + k * 20, width: 18, y: 50, height: height(count),
  }));
  draw(svg, "line", { class: "base", x1: 2, x2: 202, y1: 50, y2: 50 });
  [[0, 2, "start"], [50, 102, "middle"], [100, 202, "end"]].forEach(([score, x, anchor]) => {
    draw(svg, "text", { x, y: 109, "text-anchor": anchor }).textContent = score;
  });
  return svg;
}

/** One trait at every row and token: a picture of cells, the lowest row at the bottom. */
function drawDepth(canvas, rows, count, palette) {
  canvas.width = Math.max(1, count);
  canvas.height = Math.max(1, rows.length);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  rows.forEach((row, k) => row.forEach((score, i) => {
    const ground = groundOf(score, palette);
    if (ground === "") return;
    context.fillStyle = ground;
    context.fillRect(i, rows.length - 1 - k, 1, 1);
  }));
}
