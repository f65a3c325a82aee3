// The page: sends messages, shows answers as they come, and keeps their records.

const byId = (id) => document.getElementById(id);

const state = {
  model: "",
  traits: [],
  turns: [],
  running: null, // {turn, stop}
  last: 0, // number of the last turn
};
let panel = null;
let isSentEarly = false; // a message was sent before the page knew the traits

// ---- what the server has

async function load() {
  byId("status").textContent = "";
  let models, traits;
  try {
    [models, traits] = await Promise.all([readJson("v1/models"), readJson("v1/traitcli/traits")]);
  } catch (error) {
    cannotLoad(error);
    return;
  }
  byId("key-form").hidden = true;
  byId("message").focus();
  // With another key, a chat goes on as it is.
  if (panel === null) build(models.data[0].id, traits.data);
  if (isSentEarly) submit();
}

function build(model, traits) {
  Object.assign(state, { model, traits });
  byId("model").textContent = joinParts(model, countOf(traits.length, "trait"));
  document.title = `${model} · traitcli`;
  byId("trait").replaceChildren(...traits.map(({ name }) => new Option(name, name)));
  panel = new Panel(traits, { point, chosen: choose });
  document.querySelector(".coloring").hidden = traits.length === 0;
  document.querySelector(".side .live").hidden = traits.length === 0;
  if (traits.length > 0) choose((traits.find(({ name }) => name === "refusal") ?? traits[0]).name);
}

function cannotLoad(error) {
  if (error.needsKey) askForKey();
  else {
    const again = element("button", "button small", "Try again");
    again.type = "button";
    again.addEventListener("click", load);
    byId("status").replaceChildren(
      element("span", "", error instanceof Refused ? error.message : "The server gave no answer."),
      again,
    );
  }
}

function askForKey() {
  byId("status").textContent = apiKey.get() ? "The server does not take this key." : "";
  byId("key-form").hidden = false;
  byId("key").focus();
}

// ---- which trait, which answer, which token

function choose(name) {
  byId("trait").value = name;
  panel.choose(name);
  for (const turn of state.turns) turn.paint(panel.chosen);
  showLegend();
}

function showLegend() {
  const end = panel.chosen.has_scale ? formatScore(PALETTE.limit) : "high";
  const start = panel.chosen.has_scale ? formatScore(-PALETTE.limit) : "low";
  byId("legend-low").textContent = start;
  byId("legend-high").textContent = end;
  byId("legend").setAttribute(
    "aria-label",
    `Colors from ${start} (blue) through 0 to ${end} (orange)`,
  );
  const stops = Array.from(
    { length: 33 },
    (_, k) => backgroundOf(((k - 16) / 16) * PALETTE.limit, PALETTE) || "transparent",
  );
  byId("legend").querySelector("i").style.backgroundImage =
    `linear-gradient(to right, ${stops.join(", ")})`;
}

/** Show an answer beside the chat, at one token or as a whole; first of all one that grows. */
function point(turn, index, follow = false) {
  panel.turn?.mark(-1);
  panel.point(index === null && state.running ? state.running.turn : turn, index, follow);
  if (index === null) return;
  turn.mark(index);
  if (follow) say(describe(turn, index));
}

const describe = (turn, index) =>
  [
    `${quoted(turn.texts[index])}, token ${index + 1} of ${turn.texts.length}`,
    ...[...turn.scores].map(([trait, values]) => `${trait} ${formatScore(values[index])}`),
  ].join(", ");

/** Tell those who do not see the page. */
function say(text) {
  byId("news").textContent = text;
}

// ---- a turn

/** What the model is asked, after all turns that it may see. */
function messages(asked) {
  const system = byId("system").value;
  return [
    ...(system.trim() === "" ? [] : [{ role: "system", content: system }]),
    ...state.turns
      .filter((turn) => turn.isUsable)
      .flatMap((turn) => [
        { role: "user", content: turn.asked },
        { role: "assistant", content: turn.text },
      ]),
    { role: "user", content: asked },
  ];
}

function numberOf(id) {
  const { value } = byId(id);
  return value.trim() === "" ? undefined : Number(value);
}

function steering() {
  const others = byId("more-steering").value.split(",");
  return [...panel.pushes, ...others.map((text) => text.trim()).filter(Boolean)];
}

function ask(asked) {
  if (state.running || panel === null) return;
  const settings = byId("settings");
  if (!settings.checkValidity()) {
    settings.closest("details").open = true;
    settings.reportValidity();
    return;
  }
  const steer = steering();
  const body = {
    model: state.model,
    messages: messages(asked),
    temperature: numberOf("temperature"),
    max_tokens: numberOf("max-tokens"),
    seed: numberOf("seed"),
    traitcli: { steer },
  };
  state.last += 1;
  const turn = new Turn(byId("turns"), state.last, asked, steer, {
    traits: state.traits,
    point,
    again: tryAgain,
  });
  state.turns.push(turn);
  byId("welcome").hidden = true;
  panel.point(turn, null);
  isFollowing = true;
  follow();
  run(turn, body);
}

async function run(turn, body) {
  const stop = new AbortController();
  state.running = { turn, stop };
  showRunning();
  const clock = setInterval(() => turn.tick(), 500);
  let record = "";
  try {
    await streamAnswer(
      body,
      stop.signal,
      (id) => (record = id),
      (choice) => {
        turn.add(choice);
        updateSoon();
      },
    );
  } catch (error) {
    if (stop.signal.aborted) turn.end("stopped");
    else turn.fail(error instanceof Refused ? error.message : "The server gave no answer.");
    if (error.needsKey) askForKey();
  }
  clearInterval(clock);
  state.running = null;
  update();
  showRunning();
  if (!document.body.contains(turn.root)) return;
  say(turn.state === "failed" ? "" : `Answer ${turn.number}: ${turn.part("facts").textContent}`);
  if (record !== "") await keepRecord(turn, record);
}

async function keepRecord(turn, id) {
  const text = await fetchRecord(id);
  if (text === null) turn.note("The server does not have the record of this answer any more.");
  else turn.record = text.trim();
  showRunning();
}

function tryAgain(turn) {
  if (state.running) return;
  if (turn.texts.length === 0) {
    state.turns.splice(state.turns.indexOf(turn), 1);
    turn.root.remove();
  }
  ask(turn.asked);
}

// ---- keeping up with the tokens

let isWaiting = false;
let painted = { turn: null, count: 0 };

/** Update once a frame, however many tokens come. */
function updateSoon() {
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(() => {
    isWaiting = false;
    update();
  });
}

function update() {
  const turn = state.turns.at(-1);
  if (!turn) return;
  const from = painted.turn === turn ? painted.count : 0;
  if (panel.chosen) turn.paint(panel.chosen, from);
  painted = { turn, count: turn.spans.length };
  if (panel.turn === turn) panel.grow();
  follow();
}

let isFollowing = true;
let lastTop = 0;

/** Stop following the answer when the reader scrolls up, and go on when the end is in sight. */
byId("log").addEventListener("scroll", () => {
  const log = byId("log");
  const isNearEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  // Tokens that come faster than frames may put the end out of sight: nobody scrolled up then.
  if (isNearEnd || log.scrollTop < lastTop) isFollowing = isNearEnd;
  lastTop = log.scrollTop;
});

function follow() {
  if (isFollowing) byId("log").scrollTop = byId("log").scrollHeight;
}

function showRunning() {
  const isRunning = state.running !== null;
  const focused = document.activeElement;
  byId("send").hidden = isRunning;
  byId("stop").hidden = !isRunning;
  // A hidden button loses the focus to nowhere.
  if (isRunning && focused === byId("send")) byId("stop").focus();
  if (!isRunning && focused === byId("stop")) byId("message").focus();
  byId("new").disabled = state.turns.length === 0;
  byId("download").disabled = !state.turns.some((turn) => turn.record !== "");
}

// ---- the conversation as a file

function download() {
  const lines = state.turns.map((turn) => turn.record).filter(Boolean);
  const file = new Blob([`${lines.join("\n")}\n`], { type: "application/x-ndjson" });
  const link = element("a");
  const day = new Date().toISOString().slice(0, 19).replaceAll(/[-:]/g, "").replace("T", "-");
  link.href = URL.createObjectURL(file);
  link.download = `chat-${day}.jsonl`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function startAnew() {
  state.running?.stop.abort();
  for (const turn of state.turns) turn.root.remove();
  state.turns = [];
  state.last = 0;
  byId("welcome").hidden = false;
  panel.point(null, null);
  say("");
  showRunning();
  byId("message").focus();
}

// ---- listening

function submit() {
  const text = byId("message").value;
  isSentEarly = panel === null;
  if (text.trim() === "" || state.running || isSentEarly) return;
  byId("message").value = "";
  fitMessage();
  ask(text);
}

/** Let the field of the message grow with its text. */
function fitMessage() {
  const field = byId("message");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, 220)}px`;
}

function listen() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  byId("message").addEventListener("input", fitMessage);
  byId("message").addEventListener("keydown", (event) => {
    // Enter also ends the composition of a Chinese or Japanese word.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.isComposing) state.running?.stop.abort();
  });
  byId("stop").addEventListener("click", () => state.running?.stop.abort());
  byId("trait").addEventListener("change", (event) => choose(event.target.value));
  byId("download").addEventListener("click", download);
  byId("new").addEventListener("click", startAnew);
  byId("settings").addEventListener("submit", (event) => event.preventDefault());
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    apiKey.set(byId("key").value.trim());
    byId("key").value = "";
    load();
  });
  for (const idea of document.querySelectorAll(".ideas button"))
    idea.addEventListener("click", () => {
      byId("message").value = idea.textContent.replace(/\s+/g, " ").trim();
      submit();
    });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCharts);
}

listen();
load();
