// Shows runs: commands, devices, times, judge usage and failures.

const STAGES = ["rollouts", "readings", "judgements", "vectors"];
const STAGE_NAMES = new Map([
  ["rollouts", "generating"],
  ["readings", "reading"],
  ["judgements", "judging"],
  ["vectors", "building"],
]);

/** Seconds as `3.5 s`, `12 min 3 s` or `1 h 2 min`. */
function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const total = Math.round(seconds);
  if (total < 60) return `${total} s`;
  if (total < 3600) return `${Math.floor(total / 60)} min ${total % 60} s`;
  const minutes = Math.round(total / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const sum = (values) =>
  values.reduce((total, value) => total + (Number.isFinite(value) ? value : 0), 0);
const unique = (values) => [...new Set(values.filter(Boolean))];
const money = (usd) =>
  usd === null || usd === undefined ? "cost unknown" : `$${usd.toFixed(usd < 1 ? 4 : 2)}`;

function usageText(usage) {
  if (!usage || !(usage.requests || usage.cached)) return "no requests";
  return joinParts(
    countOf(usage.requests, "request"),
    usage.cached ? `${formatCount(usage.cached)} from the cache` : "",
    `${formatCount(usage.prompt_tokens)} + ${formatCount(usage.completion_tokens)} tokens`,
    money(usage.usd),
  );
}

/** Each device once, with its hardware if known. */
function devicesOf(commands, models) {
  const known = new Map(
    models.map((model) => [model.device, joinParts(model.device, model.hardware)]),
  );
  return unique([...commands.flatMap((each) => each.devices), ...known.keys()])
    .map((one) => known.get(one) ?? one)
    .join(", ");
}

/** The facts of a run as [name, text] pairs. */
function factsOf(run) {
  const { commands, traits } = run;
  const models = commands.flatMap((command) => command.models);
  const versions = commands.at(-1)?.versions ?? {};
  const named = (name) => unique(models.map((model) => model[name])).join(", ");
  const revision = named("revision") || run.settings["model.revision"] || "";
  const seconds = sum(commands.map((command) => command.seconds));
  return [
    ["Model", joinParts(run.model, run.settings["model.id"])],
    ["Revision", revision || "unknown"],
    ["Devices", devicesOf(commands, models)],
    ["Machine", unique(commands.map((command) => command.machine)).join("; ")],
    [
      "Versions",
      Object.entries(versions)
        .map(([name, version]) => `${name} ${version}`)
        .join(" · "),
    ],
    [
      "Time",
      commands.length > 0 ? `${duration(seconds)} in ${countOf(commands.length, "command")}` : "",
    ],
    [
      "Rollouts",
      `${formatCount(sum(traits.map((trait) => trait.rollouts_done)))} responses, ` +
        `${formatCount(sum(traits.map((trait) => trait.response_tokens)))} response tokens, ` +
        `${formatCount(sum(traits.map((trait) => trait.prompt_tokens)))} prompt tokens`,
    ],
    [
      "Judge",
      joinParts(
        unique(traits.map((trait) => trait.judge.replace(/~[0-9a-f]{6}$/, ""))).join(", "),
        usageText(run.usage),
      ),
    ],
  ].filter(([, text]) => text);
}

function timeBar(trait, most) {
  const bar = element("span", "times");
  for (const stage of STAGES) {
    const seconds = trait.seconds[stage] ?? 0;
    const segment = element("i", stage);
    segment.style.setProperty("--share", seconds / most);
    segment.title = `${STAGE_NAMES.get(stage)} ${duration(seconds)}`;
    bar.append(segment);
  }
  return bar;
}

function traitRow(body, trait, most) {
  const row = body.insertRow();
  row.append(rowHead(trait.trait));
  cell(
    row,
    formatCount(trait.rollouts_done) +
      (trait.rollouts_total == null ? "" : `/${formatCount(trait.rollouts_total)}`),
    trait.empty ? `${trait.empty} empty` : "",
  );
  cell(
    row,
    formatCount(trait.response_tokens),
    trait.seconds.rollouts
      ? `${formatCount(Math.round(trait.response_tokens / trait.seconds.rollouts))}/s`
      : "",
  );
  cell(row, formatCount(trait.prompt_tokens));
  cell(row, formatCount(trait.judged), trait.missing ? `${trait.missing} missing` : "");
  for (const stage of STAGES) cell(row, duration(trait.seconds[stage]));
  cell(row, timeBar(trait, most), "", "text bar-cell");
  cell(
    row,
    trait.usage.requests ? formatCount(trait.usage.requests) : "–",
    trait.usage.requests ? money(trait.usage.usd) : "",
  );
  cell(row, trait.built ? "yes" : "no");
}

const COMMAND_ENDINGS = new Map([
  ["finished", "finished"],
  ["stopped", "stopped"],
  [null, "killed or still running"],
]);

function commandRow(body, command) {
  const row = body.insertRow();
  row.append(rowHead(String(command.started).replace("T", " ").slice(0, 19)));
  cell(
    row,
    command.stages.map((stage) => STAGE_NAMES.get(stage) ?? stage).join(", "),
    countOf(command.traits.length, "trait"),
    "text",
  );
  cell(
    row,
    unique([...command.devices, ...command.models.map((model) => model.device)]).join(", ") || "–",
    "",
    "text",
  );
  cell(row, duration(command.seconds));
  cell(row, formatCount(command.tokens));
  cell(
    row,
    COMMAND_ENDINGS.get(command.ending) ?? String(command.ending),
    command.problem ?? "",
    "text",
  );
}

/** Failures, missing scores and warnings, one text each. */
function failuresOf(run) {
  const failed = run.commands.flatMap((command) =>
    command.failures.map((each) =>
      joinParts(`${each.trait} failed at ${each.stage}: ${each.problem}`, each.cause),
    ),
  );
  const warned = run.commands.flatMap((command) =>
    command.warnings.map((each) => `${each.trait ? `${each.trait}: ` : ""}${each.message}`),
  );
  const missing = run.traits.flatMap((trait) =>
    Object.entries(trait.missing_reasons).map(
      ([reason, count]) => `${trait.trait}: ${countOf(count, "score")} missing: ${reason}`,
    ),
  );
  return [...failed, ...missing, ...warned];
}

function fillList(list, texts) {
  const counts = new Map();
  for (const text of texts) counts.set(text, (counts.get(text) ?? 0) + 1);
  list.replaceChildren(
    ...[...counts].map(([text, count]) =>
      element("li", "", count > 1 ? `${text} (${count} times)` : text),
    ),
  );
}

function fillTerms(list, pairs) {
  list.replaceChildren(
    ...pairs.map(([name, text]) => {
      const pair = element("div");
      pair.append(element("dt", "", name), element("dd", "", text));
      return pair;
    }),
  );
}

function runArticle(run, number) {
  const article = copyTemplate("run", number);
  const part = (name) => article.querySelector(`[data-part="${name}"]`);
  part("name").textContent = `Run ${run.name}`;
  fillTerms(part("facts"), factsOf(run));
  const most = Math.max(
    1e-9,
    ...run.traits.map((trait) => sum(STAGES.map((stage) => trait.seconds[stage]))),
  );
  run.traits.forEach((trait) => traitRow(part("traits").tBodies[0], trait, most));
  run.commands.forEach((command) => commandRow(part("commands").tBodies[0], command));
  part("history").hidden = run.commands.length === 0;
  part("no-log").hidden = run.commands.length > 0;
  const failures = failuresOf(run);
  fillList(part("failures"), failures);
  part("none-failed").hidden = failures.length > 0;
  fillTerms(
    part("settings"),
    Object.entries(run.settings).map(([key, value]) => [
      key,
      value === null ? "none" : Array.isArray(value) ? value.join(", ") || "none" : String(value),
    ]),
  );
  return article;
}

function showRuns(runs) {
  document.getElementById("run-list").replaceChildren(...runs.map(runArticle));
  document.getElementById("no-runs").hidden = runs.length > 0;
}
