// Reads monitoring records and works out the numbers that the page shows of them.

const isTable = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** Scores by trait, NaN where there is none; a row of another length than the tokens is noted. */
function readScores(table, count, notes) {
  const scores = new Map();
  for (const [trait, row] of Object.entries(table ?? {})) {
    const values = new Float64Array(count).fill(NaN);
    const given = Array.isArray(row) ? row : [];
    given.slice(0, count).forEach((value, i) => { if (typeof value === "number") values[i] = value; });
    if (given.length !== count) notes.push(`${trait} has ${given.length} scores for ${count} tokens.`);
    scores.set(trait, values);
  }
  return scores;
}

/** A record as the page uses it; throws an Error that says in words why it is none. */
function readRecord(value) {
  if (!isTable(value)) throw new Error("not a monitoring record");
  const { tokens } = value;
  if (!Array.isArray(tokens) || !tokens.every((token) => typeof token === "string")) {
    throw new Error("“tokens” is not a list of texts");
  }
  const table = value.trait_scores ?? value.projections ?? null;
  if (!("trait_scores" in value || "projections" in value)) throw new Error("there are no “trait_scores” in it");
  if (table !== null && !isTable(table)) throw new Error("“trait_scores” is not a table of traits");
  const notes = [];
  const raw = readScores(table, tokens.length, notes);
  const calibrated = readScores(isTable(value.calibrated_scores) ? value.calibrated_scores : {}, tokens.length, notes);
  if (typeof value.response === "string" && tokens.join("") !== value.response) {
    notes.push("The tokens do not join to the response.");
  }
  const traits = [...new Set([...raw.keys(), ...calibrated.keys()])];
  return { ...value, traits, notes, scores: { raw, calibrated }, layers: isTable(value.layers) ? value.layers : {} };
}

/** Whether there is a single number to show. */
const isScored = ({ scores }) => [scores.raw, scores.calibrated].some((of) => [...of.values()].some(summarise));

/** The mean of each value and the ones before it, `window` in all; gaps stay gaps. */
function smooth(values, window) {
  const out = new Float64Array(values.length).fill(NaN);
  let sum = 0;
  let known = 0;
  const count = (value, sign) => { if (Number.isFinite(value)) { sum += sign * value; known += sign; } };
  for (let i = 0; i < values.length; i += 1) {
    count(values[i], 1);
    if (i >= window) count(values[i - window], -1);
    if (Number.isFinite(values[i])) out[i] = sum / known;
  }
  return out;
}

/** Mean, extremes and where the highest is; null when there is no score at all. */
function summarise(values) {
  let [sum, known, low, high, at] = [0, 0, Infinity, -Infinity, 0];
  values.forEach((value, i) => {
    if (!Number.isFinite(value)) return;
    sum += value;
    known += 1;
    low = Math.min(low, value);
    if (value > high) [high, at] = [value, i];
  });
  return known === 0 ? null : { mean: sum / known, low, high, at };
}

/** Where colour and bars end: nearly every score lies within, and one stray token does not fade all others. */
function reach(values) {
  const sizes = Array.from(values).filter(Number.isFinite).map(Math.abs).sort((a, b) => a - b);
  return sizes.length === 0 ? 0 : sizes[Math.ceil(sizes.length * 0.98) - 1];
}

const minus = (text) => text.replace("-", "−");
const plain = (value, digits = 2) => (Number.isFinite(value) ? minus(value.toFixed(digits)) : "–");

/** A score with its sign, as short as the space for it. */
function signed(value) {
  if (!Number.isFinite(value)) return "–";
  const text = plain(value, Math.abs(value) < 100 ? 2 : 0);
  const shown = /^−[0.]+$/.test(text) ? text.slice(1) : text;
  return value > 0 && /[1-9]/.test(shown) ? `+${shown}` : shown;
}

const VISIBLE = { " ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥" };
/** A token on its own, with its white space to be seen. */
const visible = (token) => token.replace(/[ \n\r\t]/g, (sign) => VISIBLE[sign]);

/** “1 token”, “2 tokens”. */
const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
