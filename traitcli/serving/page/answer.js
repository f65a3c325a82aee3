// One turn of the chat: the message, and the answer with its colored tokens.

const ENDS = new Map([
  ["stop", "ended by the model"],
  ["length", "cut at the token limit"],
  ["content_filter", "stopped by an alarm"],
  ["stopped", "stopped by you"],
  ["time", "cut: its time was up"],
]);

/**
 * A turn. `page` is {traits, point(turn, index, follow), again(turn)}.
 *
 * texts   the text of each token
 * scores  trait -> score of each token, NaN without one
 * braked  cap or gate -> indices of the tokens at which it held
 * record  its record as the server gave it; empty until then
 */
class Turn {
  constructor(host, number, asked, steer, page) {
    Object.assign(this, { number, asked, steer, page });
    this.texts = [];
    this.spans = [];
    this.scores = new Map(page.traits.map(({ name }) => [name, []]));
    this.means = null;
    this.counted = [];
    this.braked = new Map();
    this.record = "";
    this.state = "waiting";
    this.begun = performance.now();
    this.root = document.getElementById("turn").content.firstElementChild.cloneNode(true);
    this.root.dataset.turn = number;
    this.root.setAttribute("aria-label", `Turn ${number}`);
    this.part("asked").textContent = asked;
    this.part("pushes").replaceChildren(...steer.map((way) => element("li", "", minus(way))));
    this.part("pushes").hidden = steer.length === 0;
    this.part("tokens").setAttribute("aria-label", `Answer ${number}; arrow keys move through it`);
    this.part("tokens").hidden = true;
    host.append(this.root);
    this.listen();
  }

  part(name) {
    return this.root.querySelector(`.${name}`);
  }

  get text() {
    return this.texts.join("");
  }

  /** Whether the model may be shown this turn later. */
  get isUsable() {
    return this.state !== "failed" || this.texts.length > 0;
  }

  get isRunning() {
    return this.state === "waiting" || this.state === "writing";
  }

  // ---- growing

  /** Say how long the first token is awaited. */
  tick() {
    if (this.state !== "waiting") return;
    const seconds = Math.floor((performance.now() - this.begun) / 1000);
    this.part("waiting").querySelector("span").textContent =
      seconds < 2 ? "Waiting for the first token" : `Waiting for the first token, ${seconds} s`;
  }

  /** Add what a chunk brings: a token with scores, or the end. */
  add({ delta = {}, finish_reason: reason, traitcli: own = {} }) {
    if (own.scores) this.addToken(String(delta.content ?? ""), own);
    else if (delta.content && this.texts.length > 0) this.complete(String(delta.content));
    if (!reason) return;
    this.means = new Map(Object.entries(objectOf(own.mean)));
    for (const { rule, score, token } of listOf(own.alarms))
      this.note(`Alarm ${rule}: ${formatScore(score)} at token ${token + 1}`);
    this.end(own.ended === "time" ? "time" : reason);
  }

  addToken(text, { scores, counted = true, braked = [] }) {
    if (this.state === "waiting") {
      this.state = "writing";
      this.first = performance.now();
      this.part("waiting").hidden = true;
      this.part("tokens").hidden = false;
    }
    const span = tokenSpan(text, this.texts.length);
    this.texts.push(text);
    this.spans.push(span);
    this.counted.push(counted);
    for (const brake of listOf(braked)) {
      this.braked.set(brake, [...(this.braked.get(brake) ?? []), this.texts.length - 1]);
      span.classList.add("braked");
    }
    for (const [trait, values] of this.scores) values.push(scores[trait] ?? NaN);
    this.part("tokens").append(span);
    this.last = performance.now();
  }

  /** An incomplete character belongs to the last token. */
  complete(rest) {
    const index = this.texts.length - 1;
    this.texts[index] += rest;
    const span = tokenSpan(this.texts[index], index);
    span.classList.toggle("braked", this.spans[index].classList.contains("braked"));
    this.spans[index].replaceWith(span);
    this.spans[index] = span;
  }

  end(reason) {
    this.state = "ended";
    const count = this.texts.length;
    const seconds = (this.last - this.first) / 1000;
    const pace = count > 2 && seconds > 0 ? `${((count - 1) / seconds).toFixed(1)} tokens/s` : "";
    this.part("waiting").hidden = true;
    for (const [brake, indices] of this.braked) this.note(heldText(brake, indices, count));
    this.part("facts").textContent = joinParts(
      count > 0 ? countOf(count, "token") : "no token: the model has nothing to say",
      ENDS.get(reason) ?? reason,
      pace,
    );
  }

  /** The answer ends with an error. */
  fail(message) {
    this.end("");
    this.state = "failed";
    const count = this.texts.length;
    this.part("facts").textContent = count > 0 ? countOf(count, "token") : "";
    const note = this.note(message);
    note.className = "error";
    note.firstChild.setAttribute("role", "alert");
    const again = element("button", "button small", "Try again");
    again.type = "button";
    again.addEventListener("click", () => this.page.again(this));
    note.append(again);
  }

  note(text) {
    const note = element("li", "", "");
    note.append(element("span", "", text));
    this.part("notes").append(note);
    return note;
  }

  // ---- colors and numbers

  /** Color the tokens from an index on; a trait without a scale is scaled to the whole answer. */
  paint({ name, has_scale: hasScale }, from = 0) {
    const values = this.scores.get(name) ?? [];
    const scale = hasScale ? 1 : PALETTE.limit / Math.max(usualMaximum(values), 1e-9);
    for (let i = hasScale ? from : 0; i < this.spans.length; i += 1) {
      const background = backgroundOf(values[i] * scale, PALETTE);
      this.spans[i].style.backgroundColor = background;
      this.spans[i].classList.toggle("colored", background !== "");
    }
  }

  /** The mean of a trait so far; the server's at the end. */
  mean(trait) {
    if (this.means?.has(trait)) return this.means.get(trait);
    const known = (this.scores.get(trait) ?? []).filter(
      (score, i) => this.counted[i] && Number.isFinite(score),
    );
    return known.reduce((sum, score) => sum + score, 0) / known.length;
  }

  mark(index) {
    this.marked?.classList.remove("current");
    this.marked = this.spans[index];
    this.marked?.classList.add("current");
  }

  // ---- listening

  listen() {
    const tokens = this.part("tokens");
    const indexOf = (event) => event.target.closest(".token")?.dataset.i;
    tokens.addEventListener("pointerover", (event) => {
      const index = indexOf(event);
      if (index !== undefined) this.page.point(this, Number(index));
    });
    tokens.addEventListener("pointerleave", () => this.page.point(this, null));
    tokens.addEventListener("focus", () => this.page.point(this, this.at ?? null));
    tokens.addEventListener("blur", () => this.page.point(this, null));
    tokens.addEventListener("keydown", (event) => {
      const last = this.spans.length - 1;
      const from = this.at ?? (event.key === "ArrowLeft" ? last + 1 : -1);
      const wanted = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last }[event.key];
      if (wanted === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      this.at = Math.max(0, Math.min(wanted, last));
      this.spans[this.at]?.scrollIntoView({ block: "nearest" });
      this.page.point(this, this.at, true);
    });
  }
}
