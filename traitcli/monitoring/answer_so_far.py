"""Sorts what is read of an answer while it is generated, and follows its alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from traitcli.events import AlarmRaised, PromptScored, TokenScored
from traitcli.generation.detokenize import INCOMPLETE, token_texts
from traitcli.interventions import Intervention
from traitcli.models.chat_format import Message
from traitcli.models.loaded import LoadedModel
from traitcli.models.prompts import Prompt
from traitcli.models.thinking import opens_thinking, thinking_tokens
from traitcli.monitoring.alarms import Alarm
from traitcli.monitoring.watch import Watch
from traitcli.records import Crossing, Scores, TokenScores
from traitcli.steering.interventions import brake_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


class AnswerSoFar:
    """The tokens of one answer with their scores, from its first token to its record.

    Whoever generates the answer calls `add` for each token, then `end` once.

    Args:
        loaded: The model.
        watch: What is scored.
        rendered: The prompt.

    Example:
        answer = AnswerSoFar(loaded, watch, rendered)
        for text, projections in ...:
            token, *alarms = answer.add(text, projections, seconds)
            if answer.is_stopped:
                break
        answer.end(rest)
        record = answer.record(prompt, interventions, "stop")
    """

    def __init__(self, loaded: LoadedModel, watch: Watch, rendered: Prompt) -> None:
        self._loaded = loaded
        self._watch = watch
        self._rendered = rendered
        self._opened = opens_thinking(rendered.text)
        self._brakes = brake_texts(watch.steering)
        # How long the answer gets is not known yet.
        limit = watch.config.sampling.max_new_tokens
        self._alarms = [Alarm(rule, limit) for rule in watch.rules]
        self._crossings: list[Crossing] = []
        self._tokens: list[str] = []
        self._projections: list[Floats] = []
        self._seconds: list[float] = []
        self._prompt_scores: Scores | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether an alarm ends the answer: its next token is not wanted."""
        return any(crossing.action == "stop" for crossing in self._crossings)

    @property
    def finish_reason(self) -> str:
        """Why an answer ended that is complete."""
        if self.is_stopped:
            return "alarm"
        limit = self._watch.config.sampling.max_new_tokens
        return "length" if len(self._tokens) == limit else "stop"

    def add_prompt(self, projections: Floats) -> PromptScored:
        """Take the scores of the prompt's n tokens.

        Args:
            projections: float32 [n, 2P…], as `Watch.tabulate` takes them.

        Returns:
            The event of the prompt.
        """
        texts = token_texts(self._loaded.tokenizer, self._rendered.ids, specials=True)
        scores, _ = self._watch.tabulate(texts, projections)
        self._prompt_scores = scores
        return PromptScored(scores.tokens, scores.raw, scores.calibrated, scores.massive)

    def add(
        self, text: str, projections: Floats, seconds: float
    ) -> tuple[TokenScored, list[AlarmRaised]]:
        """Take the next token.

        Args:
            text: What it adds; "" if it is part of a character that is not complete.
            projections: float32 [2P + B]: those of the watch, then 1 for each brake that held.
            seconds: Since the first token was requested.

        Returns:
            The event of the token, and those of the alarms that it raises.
        """
        scores, layer_scores = self._watch.tabulate([text], projections[None])
        raw = {trait: values[0] for trait, values in scores.raw.items()}
        calibrated = {trait: values[0] for trait, values in scores.calibrated.items()}
        by_layer = tuple(values[0] for values in layer_scores.shown) if layer_scores else ()
        alarm_scores = raw if self._watch.raw else calibrated
        index = len(self._tokens)
        skipped = self._watch.config.skip_thinking and self._is_thinking(text)
        found = []
        if not skipped:
            counting = [one for one in self._alarms if one.rule.trait not in scores.massive]
            found = [alarm.add(alarm_scores[alarm.rule.trait]) for alarm in counting]
        massive = frozenset(scores.massive)
        braked = tuple(self._braked(projections[None]))
        token = TokenScored(index, text, raw, calibrated, by_layer, skipped, massive, braked)
        # All at once and at last: after a Ctrl-C before, the record has no token that nobody saw.
        self._tokens.append(text)
        self._projections.append(projections)
        self._seconds.append(seconds)
        # An alarm counts the scores that it got; a record counts all tokens.
        return token, self._keep_crossings(found, index)

    def end(self, text: str) -> list[AlarmRaised]:
        """Complete the answer.

        Args:
            text: Belongs to the last token: the bytes of an incomplete character, as U+FFFD.

        Returns:
            The events of the alarms that the whole answer raises.
        """
        # Tokens join to the response.
        if self._tokens:
            self._tokens[-1] += text
        return self._keep_crossings([alarm.end() for alarm in self._alarms], len(self._tokens) - 1)

    def record(
        self, prompt: str, interventions: tuple[Intervention, ...], reason: str
    ) -> TokenScores:
        """The record of what was generated so far.

        Args:
            prompt: The user's message.
            interventions: How it was steered, with doses.
            reason: Why it ended.

        Returns:
            The record, as `monitor` stores it.
        """
        # An answer without a token still has all columns.
        shape = len(self._tokens), self._watch.width + len(self._brakes)
        projections = np.array(self._projections, dtype=np.float32).reshape(shape)
        scores, layer_scores = self._watch.tabulate(self._tokens, projections)
        config = self._watch.config
        return TokenScores(
            tokens=scores.tokens,
            raw=scores.raw,
            calibrated=scores.calibrated,
            massive=scores.massive,
            prompt=prompt,
            response="".join(self._tokens),
            layers=self._watch.layers,
            model=self._loaded.name,
            seed=config.seed,
            prompt_tokens=len(self._rendered.ids),
            finish_reason=reason,
            history=(*system_message(config.system), *self._watch.history),
            seconds=tuple(self._seconds),
            steering=interventions,
            crossings=tuple(self._crossings),
            prompt_scores=self._prompt_scores,
            layer_scores=layer_scores,
            about=self._watch.about,
            thinking=thinking_tokens(self._tokens, opened=self._opened),
            skips_thinking=config.skip_thinking,
            braked=self._braked(projections),
        )

    def _braked(self, projections: Floats) -> dict[str, tuple[int, ...]]:
        """Cap or gate -> indices of the tokens [n, …] at which it held; only those that did."""
        first = projections.shape[1] - len(self._brakes)
        columns = zip(self._brakes, projections.T[first:], strict=True)
        return {
            brake: tuple(np.flatnonzero(held).tolist()) for brake, held in columns if held.any()
        }

    def _is_thinking(self, text: str) -> bool:
        """Whether the next token belongs to the thinking part, as far as is known by now."""
        # A part of a character is where the character will be: in a thinking part that is open.
        tokens = [*self._tokens, text or INCOMPLETE]
        return thinking_tokens(tokens, opened=self._opened) == len(tokens)

    def _keep_crossings(self, found: Sequence[Crossing | None], token: int) -> list[AlarmRaised]:
        """Add crossings at a token to the record; their events, without the Nones."""
        new = [replace(crossing, token=token) for crossing in found if crossing]
        self._crossings += new
        return list(map(AlarmRaised, new))


def system_message(text: str | None) -> tuple[Message, ...]:
    """The system message of a record's history, if there is one."""
    return ({"role": "system", "content": text},) if text else ()
