// Draws the line chart of a record and the small curves of the vectors table, as SVG.

const MARGIN = { top: 12, right: 16, bottom: 26, left: 42 };
const LABEL_PX = 13;

/** Adds an SVG element; the name space comes from the parent, so no address stands in this file. */
function draw(parent, name, attributes = {}) {
  const element = document.createElementNS(parent.namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}

/** Round numbers from low to high, about `wanted` of them. */
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const out = [];
  for (let k = Math.ceil(low / step); k * step <= high + step * 1e-9; k += 1) out.push(k * step);
  return out;
}

/** A path through the values; of the many in one pixel column only the lowest and the highest are drawn. */
function pathOf(values, x, y) {
  const columns = Math.max(1, Math.ceil(values.length / Math.max(1, x(values.length - 1) - x(0))));
  let path = "";
  let broken = true;
  const to = (i) => {
    path += `${broken ? "M" : "L"}${x(i).toFixed(1)} ${y(values[i]).toFixed(1)}`;
    broken = false;
  };
  for (let start = 0; start < values.length; start += columns) {
    let [low, high] = [-1, -1];
    for (let i = start; i < Math.min(start + columns, values.length); i += 1) {
      if (!Number.isFinite(values[i])) continue;
      if (low < 0 || values[i] < values[low]) low = i;
      if (high < 0 || values[i] > values[high]) high = i;
    }
    if (low < 0) broken = true;
    else [...new Set([low, high])].sort((a, b) => a - b).forEach(to);
  }
  return path;
}

/** Axes, round numbers, the zero line and, where given, the marks at the class means. */
function drawAxes(svg, scale, count, marks) {
  const { x, y, low, high, width, height } = scale;
  const grid = draw(svg, "g", { class: "grid" });
  const across = (value, kind) => draw(grid, "line", {
    x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value), class: kind,
  });
  const label = (value) => {
    draw(grid, "text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }).textContent =
      minus(String(Number(value.toPrecision(6))));
  };
  const rounds = ticks(low, high, 5);
  for (const value of rounds) {
    across(value, Math.abs(value) < 1e-9 ? "zero" : "");
    label(value);
  }
  for (const mark of marks.filter((value) => value > low && value < high)) {
    across(mark, "mark");
    if (rounds.every((value) => Math.abs(y(value) - y(mark)) > LABEL_PX)) label(mark);
  }
  const positions = count === 1 ? [1] : ticks(1, count, 6).filter((value) => value >= 1 && Number.isInteger(value));
  for (const position of positions) {
    draw(grid, "text", { x: x(position - 1), y: height - 6, "text-anchor": "middle" }).textContent = position;
  }
}

/**
 * Draws the lines anew and returns what the cursor needs.
 *
 * series  {values, colour, chosen} each; the chosen one is drawn last and strongest
 * marks   values at which a dashed line is drawn
 * returns {indexAt(clientX), moveTo(index)}
 */
function drawLines(svg, series, count, marks) {
  const { width, height } = { width: Math.max(svg.clientWidth, 240), height: Math.max(svg.clientHeight, 160) };
  const known = series.flatMap(({ values }) => { const sum = summarise(values); return sum ? [sum.low, sum.high] : []; });
  const [low, high] = [Math.min(0, ...known), Math.max(0, ...known)];
  const air = (high - low || 1) * 0.06;
  const span = { low: low - air, high: high + air };
  const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
  const x = (i) => MARGIN.left + (count > 1 ? i / (count - 1) : 0.5) * inner.width;
  const y = (value) => MARGIN.top + ((span.high - value) / (span.high - span.low)) * inner.height;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.classList.toggle("dense", count > inner.width);
  drawAxes(svg, { x, y, ...span, width, height }, count, marks);
  for (const line of [...series].sort((a, b) => a.chosen - b.chosen)) {
    draw(svg, "path", { d: pathOf(line.values, x, y), class: `line ${line.colour}${line.chosen ? " chosen" : ""}` });
  }
  // Not in the drawing: else every step would paint all lines again.
  const [cursor, point] = svg.parentElement.querySelectorAll(".cursor, .point");
  const chosen = series.find((line) => line.chosen);
  point.className = `point ${chosen?.colour ?? ""}`;
  return {
    indexAt(clientX) {
      const box = svg.getBoundingClientRect();
      const along = (((clientX - box.left) / box.width) * width - MARGIN.left) / inner.width;
      return Math.round(Math.min(1, Math.max(0, along)) * (count - 1));
    },
    moveTo(index) {
      const value = chosen?.values[index];
      cursor.style.transform = `translateX(${x(index)}px)`;
      point.hidden = !Number.isFinite(value);
      if (!point.hidden) point.style.transform = `translate(${x(index)}px, ${y(value)}px)`;
    },
  };
}

/** AUROC over the rows, chance dashed, a dot at the row that is read. */
function drawSpark(svg, values, layer) {
  const known = values.filter(Number.isFinite);
  const low = Math.min(0.4, ...known);
  const x = (i) => 3 + (i / Math.max(1, values.length - 1)) * 114;
  const y = (value) => 27 - ((value - low) / (1 - low)) * 24;
  draw(svg, "line", { class: "chance", x1: 0, x2: 120, y1: y(0.5), y2: y(0.5) });
  draw(svg, "path", { class: "curve", d: pathOf(values, x, y) });
  if (Number.isFinite(values[layer])) draw(svg, "circle", { class: "at", cx: x(layer), cy: y(values[layer]), r: 3.5 });
}
