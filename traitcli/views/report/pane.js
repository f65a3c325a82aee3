// One record on the page: colored text, scores at a token, a chart and a summary.

const ENDINGS = new Map([
  ["stop", "ended by the model"],
  ["length", "cut at the token limit"],
  ["alarm", "stopped by an alarm"],
  ["interrupted", "interrupted"],
  ["provided", "not generated: existing text was scored"],
  ["given", "not generated: existing text was scored"], // name in records of earlier versions
]);
const ROLES = new Map([
  ["system", "System"],
  ["user", "User"],
  ["assistant", "Assistant"],
]);

/** How the response was generated: model, lengths, speed, seed and date. */
function generationFacts(record) {
  const seed =
    typeof record.seed === "string" || Number.isSafeInteger(record.seed)
      ? `seed ${record.seed}`
      : "";
  const prompt = Number.isFinite(record.prompt_tokens)
    ? `${countOf(record.prompt_tokens, "token")} of prompt`
    : "";
  const ending = ENDINGS.get(record.finish_reason) ?? record.finish_reason;
  const response =
    record.tokens.length > 0 ? `${formatCount(record.tokens.length)} of response` : "";
  const times = listOf(record.seconds);
  const pace =
    times.length > 1 && times.at(-1) > 0
      ? `${(times.length / times.at(-1)).toFixed(1)} tokens/s`
      : "";
  return joinParts(record.model, prompt, response, ending, pace, seed, record.created);
}

/** One way of steering; records from before there were kinds hold pushes only. */
function steeringText({ kind, trait, coefficient, layer, dose, score, at_most, when }) {
  const place = layer === null ? "every layer" : `layer ${layer}`;
  if (kind === "ablate") return `${trait} ablated at ${place}`;
  if (kind === "cap")
    return `${trait} capped: ${at_most ? "≤" : "≥"} ${formatScore(score)} at ${place}`;
  const condition = isObject(when)
    ? ` if ${when.trait} ${when.above ? ">" : "<"} ${formatScore(when.score)}`
    : "";
  return joinParts(
    `steered along ${trait}: coefficient ${formatScore(coefficient)} at ${place}${condition}`,
    Number.isFinite(dose) && dose > 0 ? `dose ${formatNumber(dose)}` : "",
  );
}

const aboutText = (about) =>
  Object.entries(about)
    .filter(([, value]) => ["string", "number"].includes(typeof value))
    .map(([key, value]) => `${key}: ${value}`)
    .join(" · ");

/** The view of one record. `page` is {palette, hover(i), pin(i), choose(trait)}. */
class Pane {
  constructor(host, number, page) {
    this.page = page;
    this.root = copyTemplate("pane", number);
    this.root.dataset.pane = number;
    this.parts = new Map(
      [...this.root.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]),
    );
    host.append(this.root);
    this.chart = null;
    this.shown = -1;
    this.pointer = "";
    this.listen();
  }

  part(name) {
    return this.parts.get(name);
  }

  // ---- choosing the record

  setRecord(record) {
    this.record = record;
    this.shown = -1;
    this.part("title").textContent = record.name ?? "";
    this.part("facts").textContent = generationFacts(record);
    this.part("about").textContent = aboutText(record.about);
    this.part("steering").replaceChildren(
      ...record.steering.map((way) => element("li", "", steeringText(way))),
      ...[...record.braked].map(([brake, indices]) =>
        element("li", "", heldText(brake, indices, record.tokens.length)),
      ),
    );
    this.part("history").replaceChildren(
      ...record.history.flatMap(({ role, content }) => [
        element("dt", "", ROLES.get(role) ?? String(role)),
        element("dd", "", String(content)),
      ]),
    );
    this.part("earlier").hidden = record.history.length === 0;
    this.part("earlier-count").textContent = countOf(record.history.length, "earlier message");
    this.showPrompt(record);
    this.spans = record.tokens.map(tokenSpan);
    for (const indices of record.braked.values())
      for (const index of indices) this.spans[index].classList.add("braked");
    this.part("tokens").replaceChildren(...this.spans);
    this.part("tokens").scrollTop = 0;
    this.part("no-tokens").hidden = this.spans.length > 0;
    this.part("tokens").hidden = this.spans.length === 0;
    this.root.classList.toggle("unscored", !isScored(record));
    this.showAlarms(record);
    this.buildTraits(record);
  }

  showPrompt(record) {
    this.promptSpans = (record.promptScores?.tokens ?? []).map(tokenSpan);
    if (record.promptScores) this.part("prompt").replaceChildren(...this.promptSpans);
    else this.part("prompt").textContent = record.prompt || "(no prompt)";
    this.part("prompt").classList.toggle("tokens", Boolean(record.promptScores));
  }

  showAlarms(record) {
    this.part("alarms").replaceChildren(
      ...record.alarms.map((alarm) => {
        const item = element("li", "", `Alarm ${alarm.rule}: ${formatScore(alarm.score)} at `);
        const index = Math.max(0, Math.min(alarm.token, record.tokens.length - 1));
        item.append(this.tokenLink(index, record));
        return item;
      }),
    );
  }

  tokenLink(index, record = this.record) {
    const button = element("button", "jump", visible(record.tokens[index] ?? "") || "(empty)");
    button.type = "button";
    button.title = `Go to token ${index + 1}`;
    button.addEventListener("click", () => this.page.pin(index));
    return button;
  }

  /** A button with a trait's name that chooses the trait. */
  traitButton(trait) {
    const button = element("button", "name");
    button.type = "button";
    button.append(element("i", `swatch ${colorClass(trait)}`), element("span", "", trait));
    button.addEventListener("click", () => this.page.choose(trait));
    return button;
  }

  buildTraits(record) {
    this.bars = record.traits.map((trait) => {
      const item = element("li");
      const [track, fill, value] = [
        element("span", "track"),
        element("i"),
        element("span", "value"),
      ];
      track.append(fill);
      item.append(this.traitButton(trait), track, value);
      return { item, fill, value };
    });
    this.part("bars").replaceChildren(...this.bars.map((bar) => bar.item));
    this.part("names").replaceChildren(
      ...record.traits.map((trait) => {
        const item = element("li");
        item.append(this.traitButton(trait));
        return item;
      }),
    );
  }

  // ---- choosing the scores

  unitFor(wanted) {
    return wanted === "calibrated" && this.record.scores.calibrated.size > 0 ? "calibrated" : "raw";
  }

  scoresOf(trait) {
    return this.record.scores[this.unit].get(trait) ?? NO_SCORES;
  }

  /** Updates everything that depends on the trait and the unit, but not on the token. */
  showScores({ trait, unit, window, limit, ends }) {
    const { record } = this;
    Object.assign(this, { trait, window, limit, ends, unit: this.unitFor(unit) });
    const notes = [...record.notes];
    if (isScored(record) && summarize(this.scoresOf(trait)) === null) {
      notes.push(
        record.traits.includes(trait)
          ? `${trait} has no ${this.unit} scores in this record.`
          : `${trait} was not monitored in this record.`,
      );
    }
    this.part("notes").replaceChildren(...notes.map((note) => element("li", "", note)));
    for (const list of ["bars", "names"]) {
      [...this.part(list).querySelectorAll("button")].forEach((button, i) => {
        button.setAttribute("aria-pressed", record.traits[i] === trait);
      });
    }
    this.paint(this.spans, record.scores);
    if (record.promptScores) this.paint(this.promptSpans, record.promptScores.scores);
    this.part("axis-low").textContent = formatScore(-limit);
    this.part("axis-high").textContent = formatScore(limit);
    this.showSummary();
    this.showLines();
    this.showHeatMap();
  }

  /** Colors tokens by calibrated scores; without them, by raw scores scaled to the whole text. */
  paint(spans, scores) {
    const calibrated = scores.calibrated.get(this.trait);
    const values = calibrated ?? scores.raw.get(this.trait) ?? NO_SCORES;
    const { palette } = this.page;
    const scale = calibrated ? 1 : palette.limit / Math.max(usualMaximum(values), 1e-9);
    spans.forEach((span, i) => {
      const background = backgroundOf(values[i] * scale, palette);
      span.style.backgroundColor = background;
      span.classList.toggle("colored", background !== "");
    });
  }

  showSummary() {
    const body = this.part("summary").tBodies[0];
    body.replaceChildren();
    for (const trait of this.record.traits) {
      const row = body.insertRow();
      row.classList.toggle("chosen", trait === this.trait);
      row.append(rowHead(trait));
      const layer = this.record.layers[trait];
      row.insertCell().textContent = Number.isInteger(layer) ? layer : "–";
      const sum = summarize(this.scoresOf(trait));
      for (const key of ["mean", "low", "high"])
        row.insertCell().textContent = sum ? formatScore(sum[key]) : "–";
      const at = row.insertCell();
      at.className = "text";
      if (sum === null) at.textContent = "–";
      else at.append(this.tokenLink(sum.at));
    }
  }

  showLines() {
    const { traits, tokens } = this.record;
    const zoom = this.chart?.zoom ?? null;
    this.chart?.end();
    this.chart = null;
    if (!isScored(this.record)) return;
    const smoothed = this.window > 1 ? `, smoothed over ${this.window} tokens` : "";
    const kind = this.unit === "calibrated" ? "Calibrated" : "Raw";
    this.part("lines").setAttribute(
      "aria-label",
      `${kind} scores of ${countOf(traits.length, "trait")} over ` +
        `${countOf(tokens.length, "token")}${smoothed}; ${this.trait} stands out`,
    );
    const lines = traits.map((trait) => ({
      trait,
      values: smooth(this.scoresOf(trait), this.window),
      chosen: trait === this.trait,
      ...(tokens.length > 600 && trait !== this.trait ? { width: 0.7, faint: 0.35 } : {}),
    }));
    this.chart = new LineChart(this.part("lines"), {
      xs: tokens.map((_, i) => i + 1),
      lines: lines.sort((a, b) => a.chosen - b.chosen),
      marks: this.unit === "calibrated" ? [-1, 1] : [],
      include: [0, ...this.ends],
      names: ["token", ""],
      onHover: (index) => this.page.hover(index),
      onPick: (index) => this.page.pin(index),
    });
    this.chart.show(zoom);
  }

  showHeatMap() {
    const { heatMap } = this.record;
    this.part("heat-map").hidden = heatMap === null;
    if (heatMap === null) return;
    const limit = Math.max(...heatMap.layers.map(usualMaximum), 1e-9);
    const scale = heatMap.calibrated ? 1 : this.page.palette.limit / limit;
    const layers = heatMap.layers.map((scores) => scores.map((value) => value * scale));
    drawHeatMap(this.part("cells"), layers, this.record.tokens.length, this.page.palette);
    this.part("heat-map-title").textContent = `${heatMap.trait} at every layer`;
    this.part("cells").setAttribute(
      "aria-label",
      `Scores of ${heatMap.trait} at ${countOf(layers.length, "layer")} over the tokens, ` +
        "layer 0 at the bottom",
    );
  }

  // ---- moving through the tokens

  /** Shows one token. It runs at every step, so it only changes existing elements. */
  moveTo(wanted, follow) {
    this.spans[this.shown]?.classList.remove("current");
    this.shown = Math.max(0, Math.min(wanted, this.spans.length - 1));
    const { tokens, traits } = this.record;
    const token = tokens[this.shown];
    const value = this.scoresOf(this.trait)[this.shown];
    this.spans[this.shown]?.classList.add("current");
    this.part("position").textContent =
      token === undefined
        ? "No token"
        : `Token ${formatCount(this.shown + 1)} of ${formatCount(tokens.length)}`;
    this.part("now-token").textContent =
      token === undefined ? "" : visible(token) || "(part of a character)";
    this.part("now-value").textContent =
      token === undefined || this.trait === "" ? "" : `${this.trait} ${formatScore(value)}`;
    traits.forEach((trait, k) => {
      const score = this.scoresOf(trait)[this.shown];
      this.bars[k].value.textContent = formatScore(score);
      this.bars[k].fill.className = score < 0 ? "down" : "up";
      const length = Number.isFinite(score) ? Math.min(1, Math.abs(score) / this.limit) : 0;
      this.bars[k].fill.style.setProperty("--length", length.toFixed(3));
    });
    this.chart?.moveTo(this.shown, follow);
    const { heatMap } = this.record;
    if (heatMap)
      this.part("at").style.setProperty("--at", (this.shown + 0.5) / Math.max(1, tokens.length));
  }

  /** Scroll the text so that the current token is visible. */
  scrollToToken() {
    const [box, span] = [this.part("tokens"), this.spans[this.shown]];
    if (span === undefined) return;
    const [top, bottom] = [span.offsetTop - 12, span.offsetTop + span.offsetHeight + 12];
    if (top < box.scrollTop) box.scrollTop = top;
    else if (bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
  }

  // ---- listening

  /** Whether the mouse moved. Scrolling also sends pointermove, at the same screen position. */
  mouseMoved(event) {
    const position = `${event.screenX} ${event.screenY}`;
    const moved = position !== this.pointer;
    this.pointer = position;
    return moved && event.pointerType === "mouse";
  }

  listen() {
    const tokens = this.part("tokens");
    const indexOf = (event) => event.target.closest(".token")?.dataset.i;
    tokens.addEventListener("pointermove", (event) => {
      const index = indexOf(event);
      if (this.mouseMoved(event) && index !== undefined) this.page.hover(Number(index));
    });
    tokens.addEventListener("click", (event) => {
      const index = indexOf(event);
      // A click that ends a text selection does not choose a token.
      if (index !== undefined && getSelection().isCollapsed) this.page.pin(Number(index));
    });
    tokens.addEventListener("pointerleave", () => this.page.hover(null));
    const cells = this.part("cells");
    const indexAt = (event) => {
      const box = cells.getBoundingClientRect();
      return Math.floor(((event.clientX - box.left) / box.width) * this.record.tokens.length);
    };
    cells.addEventListener("pointermove", (event) => {
      if (this.mouseMoved(event)) this.page.hover(indexAt(event));
    });
    cells.addEventListener("pointerleave", () => this.page.hover(null));
    cells.addEventListener("click", (event) => this.page.pin(indexAt(event)));
    this.part("nearer").addEventListener("click", () => this.chart?.zoomBy(0.5));
    this.part("farther").addEventListener("click", () => this.chart?.zoomBy(2));
    this.part("all").addEventListener("click", () => this.chart?.show(null));
  }
}
