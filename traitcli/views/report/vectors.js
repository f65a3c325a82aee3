// Fills the table of trait vectors.

const VERDICTS = new Map([["good", "●"], ["weak", "◐"], ["unusable", "○"]]);

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
  if (below === "") return td;
  const small = document.createElement("small");
  small.textContent = below;
  td.append(small);
  return td;
}

const joined = (...parts) => parts.filter((part) => part !== null && part !== undefined && part !== "").join(" · ");

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

function sparkCell(row, vector) {
  const values = Array.isArray(vector.auroc_rows) ? vector.auroc_rows.map((value) => value ?? NaN) : [];
  if (!values.some(Number.isFinite)) return cell(row, "–", "", "text");
  const svg = document.getElementById("spark").content.firstElementChild.cloneNode(true);
  const { high, at } = summarise(values);
  svg.setAttribute("aria-label", `AUROC over ${values.length} rows, highest ${plain(high)} at row ${at}`);
  drawSpark(svg, values, vector.layer);
  return cell(row, svg, "", "text");
}

function vectorRow(body, vector, shared) {
  const row = body.insertRow();
  const name = document.createElement("th");
  name.scope = "row";
  name.textContent = vector.trait ?? "unnamed";
  row.append(name);
  if (shared.model === null && vector.model) {
    const small = document.createElement("small");
    small.textContent = vector.model;
    name.append(small);
  }
  const verdict = vector.verdict ?? null;
  const word = verdict === null ? "–" : `${VERDICTS.get(verdict) ?? "·"} ${verdict}`;
  const known = VERDICTS.has(verdict) ? ` ${verdict}` : "";
  cell(row, word, vector.verdict_reason ?? "", `text verdict${known}`);
  keptCell(row, vector, shared);
  contrastCell(row, vector, shared);
  const unseen = vector.evaluation_rollouts ? `of ${vector.evaluation_rollouts} unseen` : "";
  cell(row, vector.auroc == null ? "not measured" : plain(vector.auroc), vector.auroc == null ? "" : unseen);
  cell(row, plain(vector.d));
  const last = vector.rows == null ? "" : `of ${vector.rows - 1}`;
  cell(row, vector.layer == null ? "–" : `${vector.layer}`, joined(last, own(vector, shared, "layer_choice")));
  const relative = vector.relative_magnitude == null ? "" : `× ${plain(vector.relative_magnitude)}`;
  cell(row, plain(vector.magnitude, 1), relative);
  sparkCell(row, vector);
}

/** Shows the vectors, or says in words that there are none. */
function showVectors(vectors) {
  const part = (id) => document.getElementById(id);
  for (const id of ["vectors", "terms", "vectors-intro"]) part(id).hidden = vectors.length === 0;
  part("no-vectors").hidden = vectors.length > 0;
  const told = ["model", "judge", "filter", "coherence", "layer_choice"];
  const shared = Object.fromEntries(told.map((key) => [key, sharedBy(vectors, key)]));
  const [rows, hidden] = [sharedBy(vectors, "rows"), sharedBy(vectors, "hidden_size")];
  const auroc = sharedBy(vectors, "judge_auroc");
  const judge = shared.judge && `judged by ${shared.judge}${auroc === null ? "" : ` (AUROC ${plain(auroc)})`}`;
  const filter = shared.filter && `filter: ${shared.filter}`;
  const layer = shared.layer_choice && `layer: ${shared.layer_choice}`;
  const shape = rows && hidden && `${rows} rows of ${hidden}`;
  part("vectors-intro").textContent = joined(shared.model, shape, judge, shared.coherence, filter, layer);
  const body = part("vectors").querySelector("tbody");
  vectors.forEach((vector) => vectorRow(body, vector, shared));
}
