// Reads monitoring records and computes the numbers that the page shows.

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const objectOf = (value) => (isObject(value) ? value : {});
const listOf = (value) => (Array.isArray(value) ? value : []);

const MISSING = -32768;
const NO_SCORES = new Float64Array(0);

/** Unpacks scores: numbers, packed 16-bit integers, or the raw scores on another scale. */
function unpack(packed, raw) {
  if (Array.isArray(packed)) return packed;
  if (!isObject(packed)) return [];
  if (Array.isArray(packed.from)) {
    const [center, half] = packed.from;
    return Array.from(raw ?? [], (value) => (value - center) / half);
  }
  const bytes = Uint8Array.from(atob(packed.packed), (sign) => sign.charCodeAt(0));
  const power = 10 ** Math.abs(packed.decimals);
  return Array.from(new Int16Array(bytes.buffer), (value) => {
    if (value === MISSING) return NaN;
    return packed.decimals >= 0 ? value / power : value * power;
  });
}

/** A Float64Array of `count` values, NaN where there is no number. */
function numbersOf(scores, count) {
  const values = new Float64Array(count).fill(NaN);
  scores.slice(0, count).forEach((value, i) => {
    if (typeof value === "number") values[i] = value;
  });
  return values;
}

/** Scores by trait. Adds a note if their number differs from the number of tokens. */
function readScores(table, count, notes, raw) {
  const scores = new Map();
  for (const [trait, packed] of Object.entries(table)) {
    const values = unpack(packed, raw?.get(trait));
    if (values.length !== count)
      notes.push(`${trait} has ${values.length} scores for ${count} tokens.`);
    scores.set(trait, numbersOf(values, count));
  }
  return scores;
}

/** Throws an Error that says why a value is not a monitoring record. */
function checkRecord(value) {
  if (!isObject(value)) throw new Error("not a monitoring record");
  if (!Array.isArray(value.tokens) || !value.tokens.every((token) => typeof token === "string")) {
    throw new Error("“tokens” is not a list of strings");
  }
  // The first records called them projections.
  if (!("trait_scores" in value || "projections" in value))
    throw new Error("“trait_scores” is missing");
  const table = value.trait_scores ?? value.projections ?? null;
  if (table !== null && !isObject(table))
    throw new Error("“trait_scores” is not a table of traits");
}

/** Tokens with raw and calibrated scores, of a response or a prompt. */
function readTokens(value, notes) {
  const tokens = listOf(value.tokens).filter((token) => typeof token === "string");
  const raw = readScores(objectOf(value.trait_scores ?? value.projections), tokens.length, notes);
  const calibrated = readScores(objectOf(value.calibrated_scores), tokens.length, notes, raw);
  const massive = objectOf(value.massive_tokens);
  for (const table of [raw, calibrated])
    for (const [trait, scores] of table)
      for (const index of listOf(massive[trait])) if (index in scores) scores[index] = NaN;
  const marked = new Set(Object.values(massive).flatMap(listOf)).size;
  if (marked > 0)
    notes.push(
      `${marked} of ${tokens.length} tokens have no score for some traits: ` +
        "their hidden states are many times longer than usual.",
    );
  return { tokens, scores: { raw, calibrated } };
}

/** The scores of one trait at every layer, or null; calibrated if available. */
function readLayerScores(value, count) {
  const trait = objectOf(value).trait;
  if (typeof trait !== "string") return null;
  const raw = listOf(value.trait_scores).map((packed) => numbersOf(unpack(packed), count));
  const calibrated = listOf(value.calibrated_scores).map((packed, layer) =>
    numbersOf(unpack(packed, raw[layer]), count),
  );
  return {
    trait,
    calibrated: calibrated.length > 0,
    layers: calibrated.length > 0 ? calibrated : raw,
  };
}

/** Cap or gate -> the indices of the tokens at which it held. */
const readBraked = (table, count) =>
  new Map(
    Object.entries(table).map(([brake, indices]) => [
      brake,
      listOf(indices).filter((index) => Number.isInteger(index) && index >= 0 && index < count),
    ]),
  );

/** Turns a checked record into the form that the page uses. */
function readRecord(value) {
  const notes = [];
  const { tokens, scores } = readTokens(value, notes);
  const response = typeof value.response === "string" ? value.response : tokens.join("");
  if (tokens.join("") !== response) notes.push("The tokens do not add up to the response.");
  return {
    ...value,
    response,
    tokens,
    scores,
    notes,
    traits: [...new Set([...scores.raw.keys(), ...scores.calibrated.keys()])],
    layers: objectOf(value.layers),
    history: listOf(value.history).filter(isObject),
    steering: listOf(value.steering).filter(isObject),
    braked: readBraked(objectOf(value.braked_tokens), tokens.length),
    alarms: listOf(value.alarms).filter(
      (alarm) => isObject(alarm) && Number.isInteger(alarm.token),
    ),
    about: objectOf(value.about),
    promptScores: isObject(value.prompt_scores) ? readTokens(value.prompt_scores, []) : null,
    heatMap: readLayerScores(value.layer_scores, tokens.length),
  };
}

/** The records of a file (one, a list, a chat, or one per line), and the number of error lines. */
function recordsIn(text) {
  const parsed = parseRecords(text);
  const values = isObject(parsed) && Array.isArray(parsed.turns) ? parsed.turns : parsed;
  const list = Array.isArray(values) ? values : [values];
  const valid = list.filter((value) => !(isObject(value) && typeof value.error === "string"));
  return { records: valid, failed: list.length - valid.length };
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

/** Whether a record has any score to show. */
const isScored = ({ scores }) =>
  [scores.raw, scores.calibrated].some((of) => [...of.values()].some(summarize));

/** The running mean over the last `window` values; gaps stay gaps. */
function smooth(values, window) {
  const out = new Float64Array(values.length).fill(NaN);
  let sum = 0;
  let known = 0;
  const count = (value, sign) => {
    if (Number.isFinite(value)) {
      sum += sign * value;
      known += sign;
    }
  };
  for (let i = 0; i < values.length; i += 1) {
    count(values[i], 1);
    if (i >= window) count(values[i - window], -1);
    if (Number.isFinite(values[i])) out[i] = sum / known;
  }
  return out;
}

/** Mean, minimum, maximum and the index of the maximum; null without any score. */
function summarize(values) {
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

/** The end of the scale: 98 % of the scores are within, so one outlier does not fade the rest. */
function usualMaximum(values) {
  const sizes = Array.from(values)
    .filter(Number.isFinite)
    .map(Math.abs)
    .sort((a, b) => a - b);
  return sizes.length === 0 ? 0 : sizes[Math.ceil(sizes.length * 0.98) - 1];
}

const minus = (text) => text.replace("-", "−");
const withoutMinusZero = (text) => (/^-[0.]+$/.test(text) ? text.slice(1) : text);
const formatNumber = (value, digits = 2) =>
  Number.isFinite(value) ? minus(withoutMinusZero(value.toFixed(digits))) : "–";

/** A score with its sign. */
function formatScore(value) {
  if (!Number.isFinite(value)) return "–";
  const text = formatNumber(value, Math.abs(value) < 100 ? 2 : 0);
  return value > 0 && /[1-9]/.test(text) ? `+${text}` : text;
}

const VISIBLE = { " ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥" };
/** A token with visible white space. */
const visible = (token) => token.replace(/[ \n\r\t]/g, (sign) => VISIBLE[sign]);

const formatCount = (count) => (Number.isFinite(count) ? count.toLocaleString("en") : "–");
/** “1 token”, “2 tokens”. */
const countOf = (count, noun) => `${formatCount(count)} ${noun}${count === 1 ? "" : "s"}`;
/** The non-empty parts, separated by dots. */
const joinParts = (...parts) =>
  parts.filter((part) => part !== null && part !== undefined && part !== "").join(" · ");

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

/** The header cell of a table row. */
function rowHead(text) {
  const head = element("th", "", text);
  head.scope = "row";
  return head;
}

/** Copies a template. Ids and references to them get a number, because an id must be unique. */
function copyTemplate(template, number) {
  const copy = document.getElementById(template).content.firstElementChild.cloneNode(true);
  for (const part of copy.querySelectorAll("[id]")) part.id = `${part.id}-${number}`;
  for (const part of copy.querySelectorAll("[aria-labelledby]")) {
    const names = part.getAttribute("aria-labelledby").split(" ");
    part.setAttribute("aria-labelledby", names.map((name) => `${name}-${number}`).join(" "));
  }
  return copy;
}
