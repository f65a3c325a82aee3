// Shows trait vectors: the table, what they are like at every row, how alike they are, and what they were built from.

const VERDICTS = new Map([["good", "●"], ["weak", "◐"], ["unusable", "○"]]);
const SIDES = ["positive", "negative"];

/** The value of a key when every row has the same one. */
function sharedBy(rows, key) {
  const values = new Set(rows.map((row) => row[key] ?? null));
  return values.size === 1 ? [...values][0] : null;
}

/** A cell: what matters in the first line, what explains it in small print below. */
function cell(row, first, below = "", kind = "") {
  const td = row.insertCell();
  td.className = kind;
  td.append(first);
  if (below !== "") td.append(element("small", "", below));
  return td;
}

/** A text of a vector's, unless all vectors share it: then it stands once, above the table. */
const own = (vector, shared, key) => (shared[key] === null && typeof vector[key] === "string" ? vector[key] : null);

function keptCell(row, vector, shared) {
  const side = (kept, total) => (kept == null ? "–" : total == null ? `${kept}` : `${kept}/${total}`);
  const known = vector.positive_kept != null || vector.negative_kept != null;
  const lost = ["empty", "missing"].filter((key) => vector[key]).map((key) => `${vector[key]} ${key}`);
  const kept = `${side(vector.positive_kept, vector.positive_total)} + ${side(vector.negative_kept, vector.negative_total)}`;
  cell(row, known ? kept : "–", joined(...lost, own(vector, shared, "filter")));
}

function contrastCell(row, vector, shared) {
  const means = vector.positive_score == null || vector.negative_score == null
    ? "" : `${plain(vector.positive_score, 0)} − ${plain(vector.negative_score, 0)}`;
  cell(row, plain(vector.contrast, 0), joined(means, own(vector, shared, "judge"), own(vector, shared, "coherence")));
}

function vectorRow(body, vector, shared) {
  const row = body.insertRow();
  const name = rowHead("");
  name.append(element("i", `swatch ${colourOf(nameOf(vector))}`), nameOf(vector));
  row.append(name);
  const verdict = vector.verdict ?? null;
  const word = verdict === null ? "–" : `${VERDICTS.get(verdict) ?? "·"} ${verdict}`;
  const known = VERDICTS.has(verdict) ? ` ${verdict}` : "";
  cell(row, word, (vector.doubts ?? []).join("; ") || (vector.verdict_reason ?? ""), `text verdict${known}`);
  keptCell(row, vector, shared);
  contrastCell(row, vector, shared);
  const unseen = vector.evaluation_rollouts ? `of ${vector.evaluation_rollouts} unseen` : "";
  const likely = joined(bounds(vector.auroc_low, vector.auroc_high, "–", 2), unseen);
  cell(row, vector.auroc == null ? "not measured" : plain(vector.auroc), vector.auroc == null ? "" : likely);
  cell(row, plain(vector.d), bounds(vector.d_low, vector.d_high, " … ", 1));
  const last = vector.layer_count == null ? "" : `of ${vector.layer_count - 1}`;
  cell(row, vector.layer == null ? "–" : `${vector.layer}`, joined(last, own(vector, shared, "layer_choice")));
  const relative = vector.relative_magnitude == null ? "" : `× ${plain(vector.relative_magnitude)}`;
  cell(row, plain(vector.magnitude, 1), relative);
}

const bounds = (low, high, between, digits) =>
  low == null || high == null ? "" : `${plain(low, digits)}${between}${plain(high, digits)}`;

const nameOf = (vector) => vector.trait ?? "unnamed";

function introOf(set, shared) {
  const [rows, hidden] = [sharedBy(set.vectors, "layer_count"), sharedBy(set.vectors, "hidden_size")];
  const auroc = sharedBy(set.vectors, "judge_auroc");
  return joined(
    set.model, rows && hidden && `${rows} rows of ${hidden}`, shared.method && shared.method.replace("_", " "),
    shared.position && `of ${shared.position}`,
    shared.judge && `judged by ${shared.judge}${auroc === null ? "" : ` (AUROC ${plain(auroc)})`}`,
    shared.coherence, shared.filter && `filter: ${shared.filter}`, shared.layer_choice && `layer: ${shared.layer_choice}`,
  );
}

// ---- row by row

/** Values by row; the last one apart, because it is taken after the final norm. */
function byRow(values) {
  const known = values.map((value) => value ?? NaN);
  return [...known.slice(0, -1), NaN, known.at(-1)];
}
const rowsFor = (count) => [...Array.from({ length: count - 1 }, (_, row) => row), count - 1.5, count - 1];

/** A chart of all traits over the rows, and a line that tells them at the row under the pointer. */
function rowChart(set, key, host, told, options) {
  const vectors = set.vectors.filter((vector) => Array.isArray(vector[key]) && vector[key].some(Number.isFinite));
  host.parentElement.hidden = vectors.length === 0;
  if (vectors.length === 0) return;
  const count = Math.max(...vectors.map((vector) => vector[key].length));
  const tell = (index) => {
    const row = index === null ? null : Math.ceil(rowsFor(count)[index]);
    told.textContent = row === null ? options.say : joined(
      `row ${row}${row === count - 1 ? " (after the final norm)" : ""}`,
      ...vectors.map((vector) => `${nameOf(vector)} ${plain(vector[key][row])}`),
    );
  };
  tell(null);
  const best = vectors.map((vector) => ({ vector, ...summarise(Float64Array.from(vector[key], (v) => v ?? NaN)) }));
  host.setAttribute("aria-label", `${options.title}: ` +
    best.map(({ vector, high, at }) => `${nameOf(vector)} highest ${plain(high)} at row ${at}`).join(", "));
  rowCharts.push(new LineChart(host, {
    xs: rowsFor(count), names: ["row", ""], marks: options.marks, include: options.include, look: tell,
    lines: vectors.map((vector) => ({
      trait: nameOf(vector), values: byRow(vector[key]), width: 1.75,
      dots: [vector.layer === count - 1 ? count : vector.layer, count].filter(Number.isInteger),
    })),
  }));
}
let rowCharts = [];

// ---- contrast, and how alike they are

function contrastRow(vector) {
  const [low, high] = [vector.negative_score, vector.positive_score];
  const item = element("li");
  const track = element("span", "scale");
  const named = element("span", "name");
  named.append(element("i", `swatch ${colourOf(nameOf(vector))}`), element("span", "", nameOf(vector)));
  if (Number.isFinite(low) && Number.isFinite(high)) {
    for (const [kind, value] of [["negative", low], ["positive", high]]) {
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
const signedWhole = (value) => (Number.isFinite(value) ? `${value > 0 ? "+" : ""}${plain(value, 0)}` : "–");

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
      td.textContent = Number.isFinite(value) ? plain(value) : "–";
      td.className = i === k ? "same" : "";
      if (i !== k && Number.isFinite(value)) {
        td.style.backgroundColor = groundOf(value * data.palette.limit, data.palette);
        td.classList.toggle("inked", td.style.backgroundColor !== "");
      }
    });
  });
}

// ---- what they were built from

function histogramOf(vector) {
  const figure = element("figure");
  const label = SIDES.map((side) => `${side}: ${vector.histogram[side].map((n, k) => `${n} from ${k * 10}`).join(", ")}`);
  const caption = element("figcaption");
  caption.append(
    element("span", "name-of", nameOf(vector)),
    element("small", "", SIDES.map((side) => `${vector[`${side}_kept`]}/${vector[`${side}_total`]}`).join(" + ") + " kept"),
  );
  figure.append(caption, drawHistogram(vector.histogram, `Scores of ${nameOf(vector)} in tens. ${label.join("; ")}`));
  return figure;
}

function exampleOf(example) {
  const item = element("li", `example ${example.polarity}`);
  const scores = joined(
    Number.isFinite(example.score) ? `score ${plain(example.score, 0)}` : `no score${example.reason ? `: ${example.reason}` : ""}`,
    Number.isFinite(example.coherence) ? `coherence ${plain(example.coherence, 0)}` : "",
  );
  item.append(
    element("p", "label", joined(`${example.polarity} instruction`, example.kept ? "kept" : `dropped: ${example.why}`)),
    element("p", "asked", example.question),
    element("p", "answered", `${example.response}${example.finish_reason === "length" ? " …" : ""}`),
    element("p", "quiet", joined(scores, example.rollout)),
  );
  return item;
}

function examplesOf(vector) {
  const details = element("details", "examples open-on-paper");
  const summary = element("summary");
  const dropped = SIDES.map((side) => Object.entries(tableOf(tableOf(vector.dropped)[side]))
    .map(([why, count]) => `${count} ${side}: ${why}`));
  summary.append(element("span", "name-of", nameOf(vector)), element("span", "quiet", dropped.flat().join(" · ")));
  details.append(summary);
  if (vector.note) details.append(element("p", "quiet", vector.note));
  const list = element("ul");
  list.append(...listOf(vector.examples).map(exampleOf));
  details.append(list);
  return details;
}

// ---- a set

function showSet(set) {
  const place = (name) => document.getElementById("set").querySelector(`[data-part="${name}"]`);
  rowCharts.forEach((chart) => chart.end());
  rowCharts = [];
  const told = ["model", "judge", "filter", "coherence", "layer_choice", "method", "position"];
  const shared = Object.fromEntries(told.map((key) => [key, sharedBy(set.vectors, key)]));
  place("intro").textContent = introOf(set, shared);
  const body = place("table").tBodies[0];
  body.replaceChildren();
  set.vectors.forEach((vector) => vectorRow(body, vector, shared));
  rowChart(set, "magnitude_by_layer", place("magnitude"), place("magnitude-told"), {
    title: "Magnitude by row", marks: [], include: [0],
    say: "Norm of the vector, in activation units. Point at a row to read it; drag to zoom.",
  });
  rowChart(set, "auroc_by_layer", place("auroc"), place("auroc-told"), {
    title: "Held-out AUROC by row", marks: [0.5], include: [0.4, 1],
    say: "How well each row tells unseen rollouts apart; 0.5 is chance. A dot is the layer that is read; the last row is taken after the final norm.",
  });
  place("contrasts").replaceChildren(...set.vectors.map(contrastRow));
  place("cosines").replaceChildren();
  place("alike").hidden = set.vectors.length < 2 || !set.cosines;
  if (!place("alike").hidden) cosineTable(set, place("cosines"));
  const scored = set.vectors.filter((vector) => vector.histogram);
  place("scores").hidden = scored.length === 0;
  place("histograms").replaceChildren(...scored.map(histogramOf));
  const shown = set.vectors.filter((vector) => vector.examples?.length > 0 || vector.note);
  place("rollouts").hidden = shown.length === 0;
  place("examples").replaceChildren(...shown.map(examplesOf));
}

/** Shows the first set, and lets another be chosen; or says in words that there is none. */
function showSets(sets) {
  const place = (id) => document.getElementById(id);
  place("set").hidden = sets.length === 0;
  place("no-vectors").hidden = sets.length > 0;
  place("which-set").hidden = sets.length < 2;
  place("sets").replaceChildren(...sets.map((set, i) => new Option(joined(set.name, set.model), i)));
  place("sets").addEventListener("change", (event) => showSet(sets[event.target.value]));
  if (sets.length > 0) showSet(sets[0]);
}
