// Shows trait vectors: table, charts by layer, cosines, and the rollouts they were built from.

/** Verdict -> its sign and its color. */
const VERDICTS = new Map([
  ["carries over", ["●", "good"]],
  ["reads its own texts", ["◕", "good"]],
  ["reads its instruction", ["◐", "weak"]],
  ["not shown", ["○", "bad"]],
]);
const POLARITIES = ["positive", "negative"];

/** The value of a key if all rows share it, else null. */
function sharedBy(rows, key) {
  const values = new Set(rows.map((row) => row[key] ?? null));
  return values.size === 1 ? [...values][0] : null;
}

/** Adds a cell: the value, and an explanation in small print below it. */
function cell(row, first, below = "", kind = "") {
  const td = row.insertCell();
  td.className = kind;
  td.append(first);
  if (below !== "") td.append(element("small", "", below));
  return td;
}

/** A vector's text, or null if all vectors share it: then it is shown once, above the table. */
const ownText = (vector, shared, key) =>
  shared[key] === null && typeof vector[key] === "string" ? vector[key] : null;

function keptCell(row, vector, shared) {
  const side = (kept, total) =>
    kept == null ? "–" : total == null ? `${kept}` : `${kept}/${total}`;
  const known = vector.positive_kept != null || vector.negative_kept != null;
  const lost = ["empty", "missing"]
    .filter((key) => vector[key])
    .map((key) => `${vector[key]} ${key}`);
  const positive = side(vector.positive_kept, vector.positive_total);
  const negative = side(vector.negative_kept, vector.negative_total);
  const kept = `${positive} + ${negative}`;
  cell(row, known ? kept : "–", joinParts(...lost, ownText(vector, shared, "filter")));
}

function contrastCell(row, vector, shared) {
  const means =
    vector.positive_score == null || vector.negative_score == null
      ? ""
      : `${formatNumber(vector.positive_score, 0)} − ${formatNumber(vector.negative_score, 0)}`;
  cell(
    row,
    formatNumber(vector.contrast, 0),
    joinParts(means, ownText(vector, shared, "judge"), ownText(vector, shared, "coherence")),
  );
}

function vectorRow(body, vector, shared) {
  const row = body.insertRow();
  const name = rowHead("");
  name.append(element("i", `swatch ${colorClass(nameOf(vector))}`), nameOf(vector));
  row.append(name);
  const verdict = vector.verdict ?? null;
  const [sign, color] = VERDICTS.get(verdict) ?? ["·", ""];
  const reasons = [vector.verdict_reason, ...(vector.doubts ?? [])].filter(Boolean).join("; ");
  const word = verdict === null ? "–" : `${sign} ${verdict}`;
  cell(row, word, reasons, `text verdict ${color}`.trim());
  keptCell(row, vector, shared);
  contrastCell(row, vector, shared);
  const unseen = vector.evaluation_rollouts ? `${vector.evaluation_rollouts} held out` : "";
  const likely = joinParts(bounds(vector.auroc_low, vector.auroc_high, "–", 2), unseen);
  cell(
    row,
    vector.auroc == null ? "not measured" : formatNumber(vector.auroc),
    vector.auroc == null ? "" : likely,
  );
  cell(
    row,
    formatNumber(vector.neutral_auroc),
    bounds(vector.neutral_auroc_low, vector.neutral_auroc_high, "–", 2),
  );
  cell(row, formatNumber(vector.d), bounds(vector.d_low, vector.d_high, " … ", 1));
  const last = vector.layer_count == null ? "" : `of ${vector.layer_count - 1}`;
  cell(
    row,
    vector.layer == null ? "–" : `${vector.layer}`,
    joinParts(last, ownText(vector, shared, "layer_choice")),
  );
  const relative =
    vector.relative_magnitude == null ? "" : `× ${formatNumber(vector.relative_magnitude)}`;
  cell(row, formatNumber(vector.magnitude, 1), relative);
}

const bounds = (low, high, between, digits) =>
  low == null || high == null
    ? ""
    : `${formatNumber(low, digits)}${between}${formatNumber(high, digits)}`;

const nameOf = (vector) => vector.trait ?? "unnamed";

function introOf(set, shared) {
  const [layers, hidden] = [
    sharedBy(set.vectors, "layer_count"),
    sharedBy(set.vectors, "hidden_size"),
  ];
  const auroc = sharedBy(set.vectors, "judge_auroc");
  return joinParts(
    set.model,
    layers && hidden && `${layers} layers × ${hidden}`,
    shared.method && shared.method.replace("_", " "),
    shared.position && `of ${shared.position}`,
    shared.judge &&
      `judged by ${shared.judge}${auroc === null ? "" : ` (AUROC ${formatNumber(auroc)})`}`,
    shared.coherence,
    shared.filter && `filter: ${shared.filter}`,
    shared.layer_choice && `layer: ${shared.layer_choice}`,
  );
}

// ---- layer by layer

/** Values by layer, with a gap before layer L: it is after the final norm, on another scale. */
function valuesByLayer(values) {
  const known = values.map((value) => value ?? NaN);
  return [...known.slice(0, -1), NaN, known.at(-1)];
}
const layerPositions = (count) => [
  ...Array.from({ length: count - 1 }, (_, layer) => layer),
  count - 1.5,
  count - 1,
];

/** A chart of all traits over the layers, and a caption with the values under the pointer. */
function layerChart(set, key, host, caption, options) {
  const vectors = set.vectors.filter(
    (vector) => Array.isArray(vector[key]) && vector[key].some(Number.isFinite),
  );
  host.parentElement.hidden = vectors.length === 0;
  if (vectors.length === 0) return;
  const count = Math.max(...vectors.map((vector) => vector[key].length));
  const showLayer = (index) => {
    const layer = index === null ? null : Math.ceil(layerPositions(count)[index]);
    caption.textContent =
      layer === null
        ? options.hint
        : joinParts(
            `layer ${layer}${layer === count - 1 ? " (after the final norm)" : ""}`,
            ...vectors.map((vector) => `${nameOf(vector)} ${formatNumber(vector[key][layer])}`),
          );
  };
  showLayer(null);
  const best = vectors.map((vector) => ({
    vector,
    ...summarize(Float64Array.from(vector[key], (v) => v ?? NaN)),
  }));
  host.setAttribute(
    "aria-label",
    `${options.title}: ` +
      best
        .map(
          ({ vector, high, at }) =>
            `${nameOf(vector)} highest ${formatNumber(high)} at layer ${at}`,
        )
        .join(", "),
  );
  layerCharts.push(
    new LineChart(host, {
      xs: layerPositions(count),
      names: ["layer", ""],
      marks: options.marks,
      include: options.include,
      onHover: showLayer,
      lines: vectors.map((vector) => ({
        trait: nameOf(vector),
        values: valuesByLayer(vector[key]),
        width: 1.75,
        dots: [vector.layer === count - 1 ? count : vector.layer, count].filter(Number.isInteger),
      })),
    }),
  );
}
let layerCharts = [];

// ---- contrast and cosines

function contrastRow(vector) {
  const [low, high] = [vector.negative_score, vector.positive_score];
  const item = element("li");
  const track = element("span", "scale");
  const named = element("span", "name");
  named.append(
    element("i", `swatch ${colorClass(nameOf(vector))}`),
    element("span", "", nameOf(vector)),
  );
  if (Number.isFinite(low) && Number.isFinite(high)) {
    for (const [kind, value] of [
      ["negative", low],
      ["positive", high],
    ]) {
      const dot = element("i", `end ${kind}`);
      dot.style.setProperty("--at", value / 100);
      track.append(dot);
    }
    const span = element("i", "span");
    span.style.setProperty("--from", Math.min(low, high) / 100);
    span.style.setProperty("--to", Math.max(low, high) / 100);
    track.prepend(span);
  }
  item.append(named, track, element("span", "value", signedWhole(vector.contrast)));
  return item;
}
const signedWhole = (value) =>
  Number.isFinite(value) ? `${value > 0 ? "+" : ""}${formatNumber(value, 0)}` : "–";

function cosineTable(set, table) {
  const names = set.vectors.map(nameOf);
  const head = table.createTHead().insertRow();
  head.append(element("td"));
  for (const name of names) {
    const th = element("th", "upright");
    th.scope = "col";
    th.append(element("span", "", name));
    head.append(th);
  }
  const body = table.createTBody();
  listOf(set.cosines).forEach((line, i) => {
    const row = body.insertRow();
    const th = rowHead(names[i]);
    th.append(element("small", "", `layer ${set.vectors[i].layer ?? "–"}`));
    row.append(th);
    line.forEach((value, k) => {
      const td = row.insertCell();
      td.textContent = Number.isFinite(value) ? formatNumber(value) : "–";
      td.className = i === k ? "same" : "";
      if (i !== k && Number.isFinite(value)) {
        td.style.backgroundColor = backgroundOf(value * data.palette.limit, data.palette);
        td.classList.toggle("colored", td.style.backgroundColor !== "");
      }
    });
  });
}

// ---- evidence

function histogramOf(vector) {
  const figure = element("figure");
  const label = POLARITIES.map(
    (side) => `${side}: ${vector.histogram[side].map((n, k) => `${n} from ${k * 10}`).join(", ")}`,
  );
  const caption = element("figcaption");
  caption.append(
    element("span", "name-of", nameOf(vector)),
    element(
      "small",
      "",
      POLARITIES.map((side) => `${vector[`${side}_kept`]}/${vector[`${side}_total`]}`).join(" + ") +
        " kept",
    ),
  );
  figure.append(
    caption,
    drawHistogram(
      vector.histogram,
      `Scores of ${nameOf(vector)} in bins of ten. ${label.join("; ")}`,
    ),
  );
  return figure;
}

function exampleOf(example) {
  const item = element("li", `example ${example.polarity}`);
  const scores = joinParts(
    Number.isFinite(example.score)
      ? `score ${formatNumber(example.score, 0)}`
      : `no score${example.reason ? `: ${example.reason}` : ""}`,
    Number.isFinite(example.coherence) ? `coherence ${formatNumber(example.coherence, 0)}` : "",
  );
  item.append(
    element(
      "p",
      "label",
      joinParts(
        `${example.polarity} instruction`,
        example.kept ? "kept" : `dropped: ${example.why}`,
      ),
    ),
    element("p", "asked", example.question),
    element(
      "p",
      "answered",
      `${example.response}${example.finish_reason === "length" ? " …" : ""}`,
    ),
    element("p", "quiet", joinParts(scores, example.rollout)),
  );
  return item;
}

function examplesOf(vector) {
  const details = element("details", "examples open-on-paper");
  const summary = element("summary");
  const dropped = POLARITIES.map((side) =>
    Object.entries(objectOf(objectOf(vector.dropped)[side])).map(
      ([why, count]) => `${count} ${side}: ${why}`,
    ),
  );
  summary.append(
    element("span", "name-of", nameOf(vector)),
    element("span", "quiet", dropped.flat().join(" · ")),
  );
  details.append(summary);
  if (vector.note) details.append(element("p", "quiet", vector.note));
  const list = element("ul");
  list.append(...listOf(vector.examples).map(exampleOf));
  details.append(list);
  return details;
}

// ---- a set

function showSet(set) {
  const part = (name) => document.getElementById("set").querySelector(`[data-part="${name}"]`);
  layerCharts.forEach((chart) => chart.end());
  layerCharts = [];
  const sharedKeys = [
    "model",
    "judge",
    "filter",
    "coherence",
    "layer_choice",
    "method",
    "position",
  ];
  const shared = Object.fromEntries(sharedKeys.map((key) => [key, sharedBy(set.vectors, key)]));
  part("intro").textContent = introOf(set, shared);
  const body = part("table").tBodies[0];
  body.replaceChildren();
  set.vectors.forEach((vector) => vectorRow(body, vector, shared));
  layerChart(set, "magnitude_by_layer", part("magnitude"), part("magnitude-caption"), {
    title: "Magnitude by layer",
    marks: [],
    include: [0],
    hint:
      "Norm of the vector, in activation units. " +
      "Point at a layer to see the values; drag to zoom.",
  });
  layerChart(set, "auroc_by_layer", part("auroc"), part("auroc-caption"), {
    title: "Held-out AUROC by layer",
    marks: [0.5],
    include: [0.4, 1],
    hint:
      "How well each layer separates held-out rollouts; 0.5 is chance. " +
      "A dot marks the chosen layer. The last layer is after the final norm.",
  });
  part("contrasts").replaceChildren(...set.vectors.map(contrastRow));
  part("cosines").replaceChildren();
  part("similarity").hidden = set.vectors.length < 2 || !set.cosines;
  if (!part("similarity").hidden) cosineTable(set, part("cosines"));
  const scored = set.vectors.filter((vector) => vector.histogram);
  part("scores").hidden = scored.length === 0;
  part("histograms").replaceChildren(...scored.map(histogramOf));
  const shown = set.vectors.filter((vector) => vector.examples?.length > 0 || vector.note);
  part("rollouts").hidden = shown.length === 0;
  part("examples").replaceChildren(...shown.map(examplesOf));
}

/** Shows the first set and lets the user choose another. */
function showSets(sets) {
  const part = (id) => document.getElementById(id);
  part("set").hidden = sets.length === 0;
  part("no-vectors").hidden = sets.length > 0;
  part("which-set").hidden = sets.length < 2;
  part("sets").replaceChildren(
    ...sets.map((set, i) => new Option(joinParts(set.name, set.model), i)),
  );
  part("sets").addEventListener("change", (event) => showSet(sets[event.target.value]));
  if (sets.length > 0) showSet(sets[0]);
}
