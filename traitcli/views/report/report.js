// The page's state, and what changes when the user chooses something.

const part = (id) => document.getElementById(id);
const STEP_MS = 110;
const LONGEST_TITLE = 90;

const data = JSON.parse(part("data").textContent);
const records = [];
const state = {
  first: -1,
  second: -1,
  trait: "",
  unit: "calibrated",
  window: 1,
  pinned: 0,
  timer: 0,
};
const page = {
  palette: data.palette,
  hover: (index) => {
    if (state.timer === 0) show(index ?? state.pinned);
  },
  pin: (index) => pin(index),
  choose: (trait) => chooseTrait(trait),
};
const paneList = part("panes");
const panes = [new Pane(paneList, 1, page)];

/** A record, unpacked when it is first shown. */
function recordAt(index) {
  records[index].read ??= readRecord(records[index].value);
  return records[index].read;
}

const shownRecords = () => panes.map((pane) => pane.record);
const length = () => Math.max(...shownRecords().map((record) => record.tokens.length));

// ---- choosing records

function titleOf({ value }, index) {
  const prompt = typeof value.prompt === "string" ? value.prompt : "";
  const words = prompt.replace(/\s+/g, " ").trim() || "(no prompt)";
  const short = words.length > LONGEST_TITLE ? `${words.slice(0, LONGEST_TITLE)}…` : words;
  return joinParts(`${index + 1}. ${short}`, countOf(value.tokens.length, "token"), value.name);
}

function listRecords() {
  const titles = records.map(titleOf);
  part("first").replaceChildren(...titles.map((title, i) => new Option(title, i)));
  part("second").replaceChildren(
    new Option("nothing", -1),
    ...titles.map((title, i) => new Option(title, i)),
  );
  part("second").disabled = part("next").disabled = part("previous").disabled = records.length < 2;
  part("no-records").hidden = records.length > 0;
  part("record").hidden = records.length === 0;
  const vectors = data.sets.reduce((sum, set) => sum + set.vectors.length, 0);
  part("contents").textContent = joinParts(
    countOf(records.length, "record"),
    countOf(vectors, "trait vector"),
    countOf(data.runs.length, "run"),
  );
}

function chooseRecords(first, second) {
  stop();
  Object.assign(state, { first, second, pinned: 0 });
  const comparing = second >= 0;
  if (comparing && panes.length < 2) panes.push(new Pane(paneList, 2, page));
  if (!comparing && panes.length > 1) {
    const gone = panes.pop();
    gone.chart?.end();
    gone.root.remove();
  }
  paneList.classList.toggle("comparing", comparing);
  [first, second].slice(0, panes.length).forEach((index, k) => panes[k].setRecord(recordAt(index)));
  part("first").value = first;
  part("second").value = second;
  const traits = [...new Set(shownRecords().flatMap((record) => record.traits))];
  if (!traits.includes(state.trait)) state.trait = traits[0] ?? "";
  part("trait").replaceChildren(...traits.map((trait) => new Option(trait, trait)));
  part("record").classList.toggle("unscored", !shownRecords().some(isScored));
  const count = length();
  part("slider").max = Math.max(0, count - 1);
  part("steps").hidden = count === 0;
  showScores();
}

// ---- choosing a trait and a unit

function chooseTrait(trait) {
  state.trait = trait;
  showScores();
}

const unit = () =>
  shownRecords().some((record) => record.scores.calibrated.size > 0) ? state.unit : "raw";

/** Updates everything that depends on trait and unit. Two compared records share one scale. */
function showScores() {
  const kind = unit();
  for (const each of ["raw", "calibrated"]) part(each).setAttribute("aria-pressed", kind === each);
  part("calibrated").disabled = !shownRecords().some((record) => record.scores.calibrated.size > 0);
  part("smoothing")
    .querySelectorAll("button")
    .forEach((button) => {
      button.setAttribute("aria-pressed", Number(button.dataset.window) === state.window);
    });
  part("trait").value = state.trait;
  part("meaning").textContent =
    kind === "calibrated"
      ? "−1 is the mean of the negative class, +1 the mean of the positive class."
      : "Raw projections (h · v) / ‖v‖ in activation units: compare tokens, not traits. " +
        "Colors show calibrated scores where they exist.";
  const scores = panes.flatMap((pane) => [...pane.record.scores[pane.unitFor(kind)].values()]);
  const limit = Math.max(kind === "calibrated" ? 1 : 1e-9, ...scores.map(usualMaximum));
  const sums = panes.length > 1 ? scores.map(summarize).filter(Boolean) : [];
  const ends = sums.flatMap(({ low, high }) => [low, high]);
  panes.forEach((pane) =>
    pane.showScores({ trait: state.trait, unit: kind, window: state.window, limit, ends }),
  );
  showLegend();
  show(state.pinned);
}

function showLegend() {
  const { limit } = data.palette;
  const calibrated = panes.find((pane) => pane.record.scores.calibrated.has(state.trait));
  const scores = panes.map((pane) => pane.record.scores.raw.get(state.trait) ?? NO_SCORES);
  const end = calibrated ? limit : Math.max(...scores.map(usualMaximum));
  part("legend-low").textContent = formatScore(-end);
  part("legend-high").textContent = formatScore(end);
  part("legend").setAttribute(
    "aria-label",
    `Colors from ${formatScore(-end)} (blue) through 0 to ${formatScore(end)} (orange)`,
  );
  const stops = Array.from(
    { length: 33 },
    (_, k) => backgroundOf(((k - 16) / 16) * limit, data.palette) || "transparent",
  );
  part("legend").querySelector("i").style.backgroundImage =
    `linear-gradient(to right, ${stops.join(", ")})`;
}

// ---- moving through the tokens

/** Shows one token in every record. Zoomed charts `follow` a step, but not the pointer. */
function show(index, follow = false) {
  const at = Math.max(0, Math.min(index, length() - 1));
  panes.forEach((pane) => pane.moveTo(at, follow));
  part("slider").value = at;
  const [{ record, shown, trait }] = panes;
  part("slider").setAttribute(
    "aria-valuetext",
    `token ${shown + 1} of ${record.tokens.length}: ${record.tokens[shown] ?? ""}, ` +
      `${trait} ${formatScore(panes[0].scoresOf(trait)[shown])}`,
  );
  return at;
}

function pin(index) {
  state.pinned = show(index, true);
  panes.forEach((pane) => pane.scrollToToken());
}

function stop() {
  clearInterval(state.timer);
  state.timer = 0;
  part("play").setAttribute("aria-pressed", "false");
  part("play-word").textContent = "Play";
}

function play() {
  if (state.pinned >= length() - 1) pin(0);
  part("play").setAttribute("aria-pressed", "true");
  part("play-word").textContent = "Pause";
  state.timer = setInterval(() => {
    pin(state.pinned + 1);
    if (state.pinned >= length() - 1) stop();
  }, STEP_MS);
}

// ---- reading more records

function addRecords(values, source) {
  const refused = [];
  for (const [i, value] of values.entries()) {
    try {
      checkRecord(value);
      records.push({ value });
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
      const { records: found, failed } = recordsIn(await file.text());
      const named = found.map((one, i) =>
        isObject(one)
          ? { name: found.length > 1 ? `${file.name} ${i + 1}` : file.name, ...one }
          : one,
      );
      refused.push(...addRecords(named, file.name));
      if (found.length + failed === 0) refused.push(`${file.name}: contains no records.`);
      if (failed > 0) refused.push(`${file.name}: skipped ${countOf(failed, "error line")}.`);
    } catch (problem) {
      refused.push(`${file.name}: ${problem.message}.`);
    }
  }
  if (records.length > first) {
    listRecords();
    chooseRecords(first, -1);
  }
  const opened =
    records.length > first ? [`${countOf(records.length - first, "record")} opened.`] : [];
  part("status").textContent = [...opened, ...refused].join(" ");
}

// ---- listening

function listenToChoices() {
  const along = (step) =>
    chooseRecords((state.first + step + records.length) % records.length, state.second);
  part("first").addEventListener("change", (event) =>
    chooseRecords(Number(event.target.value), state.second),
  );
  part("second").addEventListener("change", (event) =>
    chooseRecords(state.first, Number(event.target.value)),
  );
  part("previous").addEventListener("click", () => along(-1));
  part("next").addEventListener("click", () => along(1));
  part("trait").addEventListener("change", (event) => chooseTrait(event.target.value));
  for (const kind of ["raw", "calibrated"]) {
    part(kind).addEventListener("click", () => {
      state.unit = kind;
      showScores();
    });
  }
  part("smoothing").addEventListener("click", (event) => {
    if (event.target.dataset.window) {
      state.window = Number(event.target.dataset.window);
      showScores();
    }
  });
  part("slider").addEventListener("input", (event) => pin(Number(event.target.value)));
  part("play").addEventListener("click", () => (state.timer ? stop() : play()));
}

function listenToKeys() {
  const longest = () =>
    panes.reduce((most, pane) => (pane.spans.length > most.spans.length ? pane : most));
  document.addEventListener("keydown", (event) => {
    const elsewhere =
      event.target.matches("input, select, .wide, summary") ||
      event.ctrlKey ||
      event.metaKey ||
      event.altKey;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined || elsewhere || state.first < 0) return;
    event.preventDefault();
    pin(longest().shown + step);
  });
}

function listenToFiles() {
  part("open").addEventListener("change", async (event) => {
    await openFiles([...event.target.files]);
    event.target.value = "";
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (event.dataTransfer.files.length > 0) openFiles([...event.dataTransfer.files]);
  });
}

/** Redraws the charts for dark mode and for print: a canvas keeps the colors it was drawn with. */
function listenToTheme() {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCharts);
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("on-paper");
    for (const each of document.querySelectorAll("details.open-on-paper:not([open])")) {
      each.dataset.closed = "";
      each.open = true;
    }
    redrawCharts();
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("on-paper");
    for (const each of document.querySelectorAll("details[data-closed]")) {
      delete each.dataset.closed;
      each.open = false;
    }
    redrawCharts();
  });
}

part("status").textContent = addRecords(data.records, "This report").join(" ");
listenToChoices();
listenToKeys();
listenToFiles();
listenToTheme();
listRecords();
showDrift(data.drift);
showSets(data.sets);
showRuns(data.runs);
if (records.length > 0) chooseRecords(0, -1);
