// The traits beside the chat: lines over the answer, a score and a slider for each.

const WINDOW = 8; // tokens of a running score, as in alarms
const ROOM = 40; // tokens for which the chart has room from the start

const coefficientText = (value) => (value === 0 ? "off" : formatCoefficient(value));
const formatCoefficient = (value) => `${value > 0 ? "+" : ""}${minus(String(value))}`;

const quoted = (token) => (token === "" ? "(part of a character)" : `“${visible(token)}”`);

/** The panel of all traits. `page` is {point(turn, index), chosen(trait)}. */
class Panel {
  constructor(traits, page) {
    Object.assign(this, { traits, page });
    this.turn = null;
    this.index = null;
    this.chosen = null;
    this.rows = traits.map((trait) => this.makeRow(trait));
    byId("traits").replaceChildren(...this.rows.map(({ root }) => root));
    byId("unsteer").addEventListener("click", () => this.unsteer());
    this.showSteering();
  }

  makeRow(trait) {
    const root = document.getElementById("row").content.firstElementChild.cloneNode(true);
    const find = (selector) => root.querySelector(selector);
    const [name, slider] = [find(".name"), find(".push")];
    name.querySelector("i").className = `swatch ${colorClass(trait.name)}`;
    name.querySelector("span").textContent = trait.name;
    name.title = joinParts(
      `layer ${trait.layer}`,
      trait.verdict,
      trait.has_scale ? "" : "raw projections: this vector has no scale",
    );
    name.addEventListener("click", () => this.page.chosen(trait.name));
    slider.setAttribute("aria-label", `Steer the next answer along ${trait.name}`);
    slider.addEventListener("input", () => this.showSteering());
    slider.addEventListener("dblclick", () => {
      slider.value = "0";
      this.showSteering();
    });
    return {
      root,
      trait,
      name,
      slider,
      fill: find(".track i"),
      value: find(".value"),
      coefficient: find(".coefficient"),
    };
  }

  // ---- steering

  unsteer() {
    for (const { slider } of this.rows) slider.value = "0";
    this.showSteering();
    // The button is about to be disabled, and would take the focus with it.
    this.rows[0]?.slider.focus();
  }

  /** The pushes of the next answer, as `monitor --steer` takes them. */
  get pushes() {
    return this.rows
      .filter(({ slider }) => Number(slider.value) !== 0)
      .map(({ trait, slider }) => `${trait.name}=${Number(slider.value)}`);
  }

  showSteering() {
    for (const { slider, coefficient, root } of this.rows) {
      const value = Number(slider.value);
      const end = 50 + (value / Number(slider.max)) * 50;
      slider.style.setProperty("--from", `${Math.min(50, end)}%`);
      slider.style.setProperty("--to", `${Math.max(50, end)}%`);
      slider.setAttribute("aria-valuetext", coefficientText(value));
      coefficient.textContent = coefficientText(value);
      root.classList.toggle("pushed", value !== 0);
      root.classList.toggle("downwards", value < 0);
    }
    const { pushes } = this;
    byId("unsteer").disabled = pushes.length === 0;
    byId("steering").textContent =
      pushes.length === 0
        ? "The next answer is not steered."
        : `The next answer is steered: ${minus(pushes.join(", "))}`;
  }

  // ---- choosing

  choose(name) {
    this.chosen = this.traits.find((trait) => trait.name === name) ?? this.traits[0];
    for (const { trait, name: button, root } of this.rows) {
      button.setAttribute("aria-pressed", trait === this.chosen);
      root.classList.toggle("chosen", trait === this.chosen);
    }
    this.makeChart();
    this.show();
  }

  /** Show another answer, and one of its tokens, or all of it. */
  point(turn, index, follow = false) {
    const isNew = turn !== this.turn;
    this.turn = turn;
    this.index = index;
    if (isNew) this.makeChart();
    else this.chart?.moveTo(index, follow);
    this.show();
  }

  // ---- the chart

  /** The traits that share the unit of the chosen one, which comes last, on top. */
  get drawn() {
    const alike = this.traits.filter(({ has_scale: has }) => has === this.chosen.has_scale);
    return [...alike.filter((trait) => trait !== this.chosen), this.chosen];
  }

  get data() {
    const count = this.turn?.texts.length ?? 0;
    const values = this.drawn.map(({ name }) => smooth(this.turn?.scores.get(name) ?? [], WINDOW));
    return { xs: Array.from({ length: count }, (_, i) => i + 1), values };
  }

  makeChart() {
    this.chart?.end();
    this.chart = null;
    if (!this.chosen) return;
    const { xs, values } = this.data;
    this.chart = new LineChart(byId("lines"), {
      xs,
      lines: this.drawn.map((trait, k) => ({
        trait: trait.name,
        values: values[k],
        chosen: trait === this.chosen,
      })),
      marks: this.chosen.has_scale ? [-1, 1] : [],
      include: this.chosen.has_scale ? [-1.5, 1.5] : [0],
      names: ["token", ""],
      room: ROOM,
      onHover: (index) => this.turn && this.page.point(this.turn, index),
    });
    this.chart.moveTo(this.index, false);
  }

  /** Draw what has come since. */
  grow() {
    if (!this.chart) return;
    const { xs, values } = this.data;
    this.chart.update(xs, values);
    this.show();
  }

  // ---- the numbers

  show() {
    const { turn, index } = this;
    const count = turn?.texts.length ?? 0;
    const at = index !== null && index < count ? index : null;
    byId("position").textContent =
      turn === null
        ? ""
        : joinParts(
            `answer ${turn.number}`,
            at === null ? countOf(count, "token") : `token ${at + 1} of ${count}`,
            at === null ? "" : quoted(turn.texts[at]),
          );
    byId("value-head").textContent = at === null ? "mean" : "token";
    const limit = PALETTE.limit;
    for (const { trait, value, fill } of this.rows) {
      const score =
        turn === null ? NaN : at === null ? turn.mean(trait.name) : turn.scores.get(trait.name)[at];
      value.textContent = formatScore(score);
      fill.className = score < 0 ? "down" : "up";
      const scale = trait.has_scale ? 1 : limit / Math.max(this.largest(trait.name), 1e-9);
      const length = Number.isFinite(score) ? Math.min(1, Math.abs(score * scale) / limit) : 0;
      fill.style.setProperty("--length", length.toFixed(3));
    }
    byId("axis-low").textContent = formatScore(-limit);
    byId("axis-high").textContent = formatScore(limit);
    byId("lines").setAttribute("aria-label", this.description(count));
    byId("meaning").textContent = this.chosen?.has_scale
      ? `Mean of the last ${WINDOW} tokens; −1 and +1 are the means of the two classes.`
      : `Mean of the last ${WINDOW} tokens, in activation units: this vector has no scale.`;
  }

  largest(trait) {
    return usualMaximum(this.turn?.scores.get(trait) ?? []);
  }

  description(count) {
    if (this.turn === null) return "No answer yet";
    const means = this.traits.map(({ name }) => `${name} ${formatScore(this.turn.mean(name))}`);
    return `Running scores over ${countOf(count, "token")}; means: ${means.join(", ")}`;
  }
}
