// Shows tokens of any model as text.

/** At how many of an answer's tokens, which are underlined, a cap or a gate held. */
const heldText = (brake, indices, tokens) =>
  `${brake} held at ${countOf(indices.length, "token")} of ${tokens}, underlined`;

/** A token's text, with a visible mark before each line break. */
function tokenSpan(token, i) {
  // A bidi control must reverse only its own token, not the tokens that follow.
  const span = element(
    "span",
    /[\u202a-\u202e\u2066-\u2069]/.test(token) ? "token turning" : "token",
  );
  span.dataset.i = i;
  token.split("\n").forEach((line, k) => {
    if (k > 0) span.append(element("i", "break"), "\n");
    if (line !== "") span.append(line);
  });
  return span;
}
