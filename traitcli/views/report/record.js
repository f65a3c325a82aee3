// Reads monitoring records and works out the numbers that the page shows of them.

const isTable = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const tableOf = (value) => (isTable(value) ? value : {});
const listOf = (value) => (Array.isArray(value) ? value : []);

const NO_VALUE = -32768;
const NO_SCORES = new Float64Array(0);

/** Scores of the file: numbers, or 16-bit integers of so many decimals, or `row` on another scale. */
function unpack(packed, raw) {
  if (Array.isArray(packed)) return packed;
  if (!isTable(packed)) return [];
  if (Array.isArray(packed.from)) {
    const [centre, half] = packed.from;
    return Array.from(raw ?? [], (value) => (value - centre) / half);
  }
  const bytes = Uint8Array.from(atob(packed.packed), (sign) => sign.charCodeAt(0));
  const power = 10 ** Math.abs(packed.decimals);
  return Array.from(new Int16Array(bytes.buffer), (value) => {
    if (value === NO_VALUE) return NaN;
    return packed.decimals >= 0 ? value / power : value * power;
  });
}

/** Numbers in their places, NaN where there is none. */
function numbersOf(row, count) {
  const values = new Float64Array(count).fill(NaN);
  row.slice(0, count).forEach((value, i) => { if (typeof value === "number") values[i] = value; });
  return values;
}

/** Scores by trait; a row of another length than the tokens is noted. */
function readScores(table, count, notes, raw) {
  const scores = new Map();
  for (const [trait, packed] of Object.entries(table)) {
    const row = unpack(packed, raw?.get(trait));
    if (row.length !== count) notes.push(`${trait} has ${row.length} scores for ${count} tokens.`);
    scores.set(trait, numbersOf(row, count));
  }
  return scores;
}

/** Throws an Error that says in words why a value is no monitoring record. */
function checkRecord(value) {
  if (!isTable(value)) throw new Error("not a monitoring record");
  if (!Array.isArray(value.tokens) || !value.tokens.every((token) => typeof token === "string")) {
    throw new Error("“tokens” is not a list of texts");
  }
  if (!("trait_scores" in value || "projections" in value)) throw new Error("there are no “trait_scores” in it");
  const table = value.trait_scores ?? value.projections ?? null;
  if (table !== null && !isTable(table)) throw new Error("“trait_scores” is not a table of traits");
}

/** Tokens with their scores of either kind: a response's, or a prompt's. */
function readTokens(value, notes) {
  const tokens = listOf(value.tokens).filter((token) => typeof token === "string");
  const raw = readScores(tableOf(value.trait_scores ?? value.projections), tokens.length, notes);
  const calibrated = readScores(tableOf(value.calibrated_scores), tokens.length, notes, raw);
  return { tokens, scores: { raw, calibrated } };
}

/** One trait at every row, or null; calibrated where it can be. */
function readRows(value, count) {
  const trait = tableOf(value).trait;
  if (typeof trait !== "string") return null;
  const raw = listOf(value.trait_scores).map((row) => numbersOf(unpack(row), count));
  const calibrated = listOf(value.calibrated_scores).map((row, k) => numbersOf(unpack(row, raw[k]), count));
  return { trait, calibrated: calibrated.length > 0, rows: calibrated.length > 0 ? calibrated : raw };
}

/** A checked record as the page uses it. */
function readRecord(value) {
  const notes = [];
  const { tokens, scores } = readTokens(value, notes);
  const response = typeof value.response === "string" ? value.response : tokens.join("");
  if (tokens.join("") !== response) notes.push("The tokens do not join to the response.");
  return {
    ...value, response, tokens, scores, notes,
    traits: [...new Set([...scores.raw.keys(), ...scores.calibrated.keys()])],
    layers: tableOf(value.layers),
    history: listOf(value.history).filter(isTable),
    steering: listOf(value.steering).filter(isTable),
    alarms: listOf(value.alarms).filter((alarm) => isTable(alarm) && Number.isInteger(alarm.token)),
    about: tableOf(value.about),
    told: isTable(value.prompt_scores) ? readTokens(value.prompt_scores, []) : null,
    depth: readRows(value.layer_scores, tokens.length),
  };
}

/** The records of a file: one, a list, the turns of a chat, or one a line; with how many tell of a failure. */
function recordsIn(text) {
  const parsed = parseRecords(text);
  const values = isTable(parsed) && Array.isArray(parsed.turns) ? parsed.turns : parsed;
  const list = Array.isArray(values) ? values : [values];
  const told = list.filter((value) => !(isTable(value) && typeof value.error === "string"));
  return { records: told, failed: list.length - told.length };
}

function parseRecords(text) {
  try {
    return JSON.parse(text);
  } catch {
    const lines = text.split("\n").filter((line) => line.trim() !== "");
    if (lines.length < 2) throw new Error("not JSON");
    try {
      return lines.map((line) => JSON.parse(line));
    } catch {
      throw new Error("not JSON");
    }
  }
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
const withoutSignOfZero = (text) => (/^-[0.]+$/.test(text) ? text.slice(1) : text);
const plain = (value, digits = 2) => (Number.isFinite(value) ? minus(withoutSignOfZero(value.toFixed(digits))) : "–");

/** A score with its sign, as short as the space for it. */
function signed(value) {
  if (!Number.isFinite(value)) return "–";
  const text = plain(value, Math.abs(value) < 100 ? 2 : 0);
  return value > 0 && /[1-9]/.test(text) ? `+${text}` : text;
}

const VISIBLE = { " ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥" };
/** A token on its own, with its white space to be seen. */
const visible = (token) => token.replace(/[ \n\r\t]/g, (sign) => VISIBLE[sign]);

const whole = (count) => (Number.isFinite(count) ? count.toLocaleString("en") : "–");
/** “1 token”, “2 tokens”. */
const counted = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;
/** What is there of some parts, with dots between. */
const joined = (...parts) => parts.filter((part) => part !== null && part !== undefined && part !== "").join(" · ");

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

/** The head of a table's row. */
function rowHead(text) {
  const head = element("th", "", text);
  head.scope = "row";
  return head;
}

/** A copy of a template's element, its ids and what refers to them numbered, so that none stands twice. */
function copyOf(template, number) {
  const copy = document.getElementById(template).content.firstElementChild.cloneNode(true);
  for (const part of copy.querySelectorAll("[id]")) part.id = `${part.id}-${number}`;
  for (const part of copy.querySelectorAll("[aria-labelledby]")) {
    const names = part.getAttribute("aria-labelledby").split(" ");
    part.setAttribute("aria-labelledby", names.map((name) => `${name}-${number}`).join(" "));
  }
  return copy;
}
