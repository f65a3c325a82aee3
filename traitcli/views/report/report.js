// The page: what is chosen, and how choosing changes what is shown.

const part = (id) => document.getElementById(id);
const COLOURS = 8;
const STEP_MS = 110;

const data = JSON.parse(part("data").textContent);
const records = [];
const colours = new Map();
const state = { record: -1, trait: "", unit: "calibrated", window: 1, pinned: 0, timer: 0 };
let spans = [];
let bars = [];
let chart = null;

const current = () => records[state.record];
const unit = () => (state.unit === "calibrated" && current().scores.calibrated.size > 0 ? "calibrated" : "raw");
const NO_SCORES = new Float64Array(0);
const scoresOf = (trait) => current().scores[unit()].get(trait) ?? NO_SCORES;
const leastReach = () => (unit() === "calibrated" ? 1 : 1e-9);

/** A trait keeps its colour in every record. */
function colourOf(trait) {
  if (!colours.has(trait)) colours.set(trait, colours.size);
  const index = colours.get(trait);
  return `c${index % COLOURS}${index >= COLOURS ? " again" : ""}`;
}

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** A trait's name that chooses it. */
function traitButton(trait) {
  const button = element("button", "name");
  button.type = "button";
  button.append(element("i", `swatch ${colourOf(trait)}`), element("span", "", trait));
  button.addEventListener("click", () => chooseTrait(trait));
  return button;
}

// ---- choosing a record

function listRecords() {
  part("records").replaceChildren(...records.map((record, i) => {
    const item = element("li", "");
    const button = element("button", "");
    button.type = "button";
    const words = (record.prompt ?? "").replace(/\s+/g, " ").trim().slice(0, 160) || "(no prompt)";
    const about = [record.model, counted(record.tokens.length, "token"), record.name].filter(Boolean).join(" · ");
    button.append(element("span", "words", words), element("span", "quiet", about));
    button.addEventListener("click", () => chooseRecord(i));
    item.append(button);
    return item;
  }));
  part("no-records").hidden = records.length > 0;
  part("record").hidden = records.length === 0;
  part("contents").textContent = `${counted(records.length, "record")} · ${counted(data.vectors.length, "trait vector")}`;
}

const ENDINGS = new Map([["stop", "ended by the model"], ["length", "cut at the token limit"]]);

function describe(record) {
  const seed = typeof record.seed === "string" || Number.isSafeInteger(record.seed) ? `seed ${record.seed}` : "";
  const prompt = Number.isFinite(record.prompt_tokens) ? `${counted(record.prompt_tokens, "token")} of prompt` : "";
  const ending = ENDINGS.get(record.finish_reason) ?? record.finish_reason;
  const response = record.tokens.length > 0 ? `${record.tokens.length.toLocaleString("en")} of response` : "";
  return [record.model, prompt, response, ending, seed, record.created].filter(Boolean).join(" · ");
}

/** A token's text, with a mark before each line break that keeps no text of its own. */
function tokenSpan(token, i) {
  const span = element("span", "token");
  span.dataset.i = i;
  token.split("\n").forEach((line, k) => {
    if (k > 0) span.append(element("i", "break"), "\n");
    if (line !== "") span.append(line);
  });
  return span;
}

function chooseRecord(index) {
  stop();
  Object.assign(state, { record: index, pinned: 0 });
  const record = current();
  if (!record.traits.includes(state.trait)) state.trait = record.traits[0] ?? "";
  part("records").querySelectorAll("button").forEach((button, i) => {
    button.setAttribute("aria-current", i === index ? "true" : "false");
  });
  part("prompt").textContent = record.prompt || "(no prompt)";
  part("facts").textContent = describe(record);
  spans = record.tokens.map(tokenSpan);
  part("tokens").replaceChildren(...spans);
  part("tokens").scrollTop = 0;
  part("slider").max = Math.max(0, spans.length - 1);
  part("no-tokens").hidden = spans.length > 0;
  part("tokens").hidden = part("steps").hidden = spans.length === 0;
  part("record").classList.toggle("unscored", !isScored(record));
  buildTraits(record);
  showScores();
}

function buildTraits(record) {
  part("trait").replaceChildren(...record.traits.map((trait, i) => new Option(trait, i)));
  bars = record.traits.map((trait) => {
    const item = element("li", "");
    const track = element("span", "track");
    const fill = element("i", "");
    const value = element("span", "value");
    track.append(fill);
    item.append(traitButton(trait), track, value);
    return { item, fill, value };
  });
  part("bars").replaceChildren(...bars.map((bar) => bar.item));
  part("names").replaceChildren(...record.traits.map((trait) => {
    const item = element("li", "");
    item.append(traitButton(trait));
    return item;
  }));
}

// ---- choosing a trait and a unit

function chooseTrait(trait) {
  state.trait = trait;
  showScores();
}

/** Everything that depends on which scores are looked at, and not on where. */
function showScores() {
  const record = current();
  const notes = [...record.notes];
  for (const kind of ["raw", "calibrated"]) part(kind).setAttribute("aria-pressed", unit() === kind);
  part("calibrated").disabled = record.scores.calibrated.size === 0;
  part("trait").value = record.traits.indexOf(state.trait);
  part("meaning").textContent = unit() === "calibrated"
    ? "−1 is the mean of the negative class, +1 the mean of the positive class."
    : "Raw projections (h · v) / ‖v‖ in activation units: compare tokens, not traits.";
  if (isScored(record) && summarise(scoresOf(state.trait)) === null) {
    notes.push(`${state.trait} has no ${unit()} scores in this record.`);
  }
  part("notes").replaceChildren(...notes.map((note) => element("li", "", note)));
  for (const list of ["bars", "names"]) {
    [...part(list).querySelectorAll("button")].forEach((button, i) => {
      button.setAttribute("aria-pressed", record.traits[i] === state.trait);
    });
  }
  showHeat();
  showSummary();
  showLines();
}

function showHeat() {
  const values = scoresOf(state.trait);
  const limit = Math.max(reach(values), leastReach());
  spans.forEach((span, i) => {
    const heat = Number.isFinite(values[i]) ? Math.min(1, Math.abs(values[i]) / limit) : 0;
    span.classList.toggle("up", values[i] > 0);
    span.classList.toggle("down", values[i] < 0);
    span.style.setProperty("--heat", heat.toFixed(3));
  });
  part("legend-low").textContent = signed(-limit);
  part("legend-high").textContent = signed(limit);
  part("legend").setAttribute("aria-label", `Colours from ${signed(-limit)}, blue, over 0 to ${signed(limit)}, orange`);
}

function showSummary() {
  const body = part("summary").tBodies[0];
  body.replaceChildren();
  for (const trait of current().traits) {
    const row = body.insertRow();
    row.classList.toggle("chosen", trait === state.trait);
    const name = element("th", "", trait);
    name.scope = "row";
    row.append(name);
    const layer = current().layers[trait];
    row.insertCell().textContent = Number.isInteger(layer) ? layer : "–";
    const sum = summarise(scoresOf(trait));
    for (const key of ["mean", "low", "high"]) row.insertCell().textContent = sum ? signed(sum[key]) : "–";
    const at = row.insertCell();
    at.className = "text";
    if (sum === null) at.textContent = "–";
    else at.append(jumpButton(sum.at));
  }
}

function jumpButton(index) {
  const button = element("button", "jump", visible(current().tokens[index]) || "(empty)");
  button.type = "button";
  button.title = `Go to token ${index + 1}`;
  button.addEventListener("click", () => pin(index));
  return button;
}

function showLines() {
  const { traits, tokens } = current();
  const series = traits.map((trait) => ({
    values: smooth(scoresOf(trait), state.window), colour: colourOf(trait), chosen: trait === state.trait,
  }));
  part("smoothing").querySelectorAll("button").forEach((button) => {
    button.setAttribute("aria-pressed", Number(button.dataset.window) === state.window);
  });
  const smoothed = state.window > 1 ? `, each the mean of ${state.window} tokens up to it` : "";
  part("lines").setAttribute(
    "aria-label",
    `${unit() === "calibrated" ? "Calibrated" : "Raw"} scores of ${counted(traits.length, "trait")} over ` +
      `${counted(tokens.length, "token")}${smoothed}; ${state.trait} stands out`,
  );
  const marks = unit() === "calibrated" ? [-1, 1] : [];
  chart = isScored(current()) ? drawLines(part("lines"), series, tokens.length, marks) : null;
  scaleBars();
  show(state.pinned);
}

let barLimit = 1;
function scaleBars() {
  barLimit = Math.max(leastReach(), ...current().traits.map((trait) => reach(scoresOf(trait))));
  part("axis-low").textContent = signed(-barLimit);
  part("axis-high").textContent = signed(barLimit);
}

// ---- moving through the tokens

let shown = -1;
/** Shows one token; this runs at every step, so it changes what is there and builds nothing. */
function show(index) {
  spans[shown]?.classList.remove("here");
  shown = Math.max(0, Math.min(index, spans.length - 1));
  const { tokens, traits } = current();
  const token = tokens[shown];
  const chosen = scoresOf(state.trait)[shown];
  spans[shown]?.classList.add("here");
  part("position").textContent = token === undefined ? "No token"
    : `Token ${(shown + 1).toLocaleString("en")} of ${tokens.length.toLocaleString("en")}`;
  part("now-token").textContent = token === undefined ? "" : visible(token) || "(no text yet: part of a character)";
  part("now-value").textContent = token === undefined || state.trait === "" ? "" : `${state.trait} ${signed(chosen)}`;
  part("slider").value = shown;
  part("slider").setAttribute(
    "aria-valuetext", `token ${shown + 1} of ${tokens.length}: ${token ?? ""}, ${state.trait} ${signed(chosen)}`,
  );
  traits.forEach((trait, k) => {
    const value = scoresOf(trait)[shown];
    bars[k].value.textContent = signed(value);
    bars[k].fill.className = value < 0 ? "down" : "up";
    const length = Number.isFinite(value) ? Math.min(1, Math.abs(value) / barLimit) : 0;
    bars[k].fill.style.setProperty("--length", length.toFixed(3));
  });
  chart?.moveTo(shown);
}

function pin(index) {
  state.pinned = Math.max(0, Math.min(index, spans.length - 1));
  show(state.pinned);
  const [box, span] = [part("tokens"), spans[state.pinned]];
  if (span === undefined) return;
  const [top, bottom] = [span.offsetTop - 12, span.offsetTop + span.offsetHeight + 12];
  if (top < box.scrollTop) box.scrollTop = top;
  else if (bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
}

function stop() {
  clearInterval(state.timer);
  state.timer = 0;
  part("play").setAttribute("aria-pressed", "false");
  part("play-word").textContent = "Play";
}

function play() {
  if (state.pinned >= spans.length - 1) pin(0);
  part("play").setAttribute("aria-pressed", "true");
  part("play-word").textContent = "Pause";
  state.timer = setInterval(() => {
    pin(state.pinned + 1);
    if (state.pinned >= spans.length - 1) stop();
  }, STEP_MS);
}

// ---- reading more records

function addRecords(values, source) {
  const refused = [];
  for (const [i, value] of values.entries()) {
    try {
      records.push(readRecord(value));
    } catch (problem) {
      refused.push(`${source}${values.length > 1 ? `, record ${i + 1}` : ""}: ${problem.message}.`);
    }
  }
  return refused;
}

async function openFiles(files) {
  const first = records.length;
  const refused = [];
  for (const file of files) {
    try {
      const value = JSON.parse(await file.text());
      const values = Array.isArray(value) ? value : [value];
      refused.push(...addRecords(values.map((one) => (isTable(one) ? { name: file.name, ...one } : one)), file.name));
    } catch {
      refused.push(`${file.name}: not JSON.`);
    }
  }
  listRecords();
  if (records.length > first) chooseRecord(first);
  else if (records.length > 0) chooseRecord(state.record);
  const opened = records.length > first ? [`${counted(records.length - first, "record")} opened.`] : [];
  part("status").textContent = [...opened, ...refused].join(" ");
}

// ---- listening

/** The token under the pointer, unless the text has only scrolled beneath it. */
let pointer = "";
function hovered(event) {
  const place = `${event.screenX} ${event.screenY}`;
  const moved = place !== pointer;
  pointer = place;
  return moved && event.pointerType === "mouse" && state.timer === 0;
}

function listenToTokens() {
  const tokens = part("tokens");
  const indexOf = (event) => event.target.closest(".token")?.dataset.i;
  tokens.addEventListener("pointermove", (event) => {
    const index = indexOf(event);
    if (hovered(event) && index !== undefined) show(Number(index));
  });
  tokens.addEventListener("click", (event) => {
    const index = indexOf(event);
    // A text being selected to be copied is not a token being chosen.
    if (index !== undefined && getSelection().isCollapsed) pin(Number(index));
  });
  const lines = part("lines");
  lines.addEventListener("pointermove", (event) => {
    if (hovered(event) && chart) show(chart.indexAt(event.clientX));
  });
  lines.addEventListener("click", (event) => { if (chart) pin(chart.indexAt(event.clientX)); });
  for (const place of [tokens, lines]) {
    place.addEventListener("pointerleave", () => { if (state.timer === 0) show(state.pinned); });
  }
}

function listenToControls() {
  part("trait").addEventListener("change", (event) => chooseTrait(current().traits[event.target.value]));
  for (const kind of ["raw", "calibrated"]) {
    part(kind).addEventListener("click", () => { state.unit = kind; showScores(); });
  }
  part("smoothing").addEventListener("click", (event) => {
    if (event.target.dataset.window) { state.window = Number(event.target.dataset.window); showLines(); }
  });
  part("slider").addEventListener("input", (event) => pin(Number(event.target.value)));
  part("play").addEventListener("click", () => (state.timer ? stop() : play()));
  part("open").addEventListener("change", async (event) => {
    await openFiles([...event.target.files]);
    event.target.value = "";
  });
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const elsewhere = event.target.matches("input, select, .wide") || event.ctrlKey || event.metaKey || event.altKey;
    if (step === undefined || elsewhere || state.record < 0) return;
    event.preventDefault();
    pin(shown + step);
  });
  new ResizeObserver(() => { if (current()) showLines(); }).observe(part("lines"));
}

part("status").textContent = addRecords(data.records, "This report").join(" ");
listenToTokens();
listenToControls();
listRecords();
showVectors(data.vectors);
if (records.length > 0) chooseRecord(0);
