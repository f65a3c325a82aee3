"""Scores texts that are there already, many at once, without generating."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2.exceptions import TemplateError

from traitcli.errors import UserError
from traitcli.events import Listener, TextsRead
from traitcli.generation.batch_size import estimate_size
from traitcli.generation.detokenize import token_texts
from traitcli.generation.projections import TextProjections
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import (
    Message,
    Prompt,
    check_length,
    conversation,
    encode_response,
    render,
)
from traitcli.models.read_texts import Text, read_texts
from traitcli.monitoring.alarms import Alarm
from traitcli.monitoring.monitor import Watch
from traitcli.monitoring.record_files import append_records
from traitcli.monitoring.transcripts import Exchange
from traitcli.record_json import FailedRecord, to_json
from traitcli.records import Crossing, TokenScores

_MOST = 64
"""Texts read side by side; more are no faster."""
_CHUNK = 256
"""Texts whose records are held at once."""
_LESS_MEMORY = "set model.dtype to bfloat16, or leave the longest texts out"


def score_texts(
    loaded: LoadedModel,
    watch: Watch,
    exchanges: Sequence[Exchange],
    out: Path | None = None,
    on_event: Listener = lambda event: None,
) -> Iterator[dict[str, Any]]:
    """The monitoring record of each exchange, in order, with `error` in place of scores where it cannot be read.

    Each is a line of `out` before it is given. Scores are those that the answer's tokens had when it was written,
    if this model wrote it after this prompt.
    """
    done = tokens = 0
    on_event(TextsRead(0, len(exchanges), 0))
    for chunk in (exchanges[start : start + _CHUNK] for start in range(0, len(exchanges), _CHUNK)):
        records: list[dict[str, Any]] = [{} for _ in chunk]
        for index, record, read in _score(loaded, watch, chunk):
            records[index] = record
            done, tokens = done + 1, tokens + read
            on_event(TextsRead(done, len(exchanges), tokens))
        if out:
            append_records(out, records)
        yield from records


def _score(
    loaded: LoadedModel, watch: Watch, exchanges: Sequence[Exchange]
) -> Iterator[tuple[int, dict[str, Any], int]]:
    """Index, record and tokens of each, as they are read."""
    ready: list[tuple[int, Prompt, Text]] = []
    for index, exchange in enumerate(exchanges):
        try:
            rendered, text = _prepare(loaded, watch, exchange)
            ready.append((index, rendered, text))
        except _UnreadableError as error:
            failure = FailedRecord(exchange.prompt, str(error), exchange.about)
            yield index, to_json(failure), 0
    texts = [text for _, _, text in ready]
    if not texts:
        return
    reader = watch.reader(loaded)
    longest = max(len(text.prompt) + len(text.response) for text in texts)
    size = min(_MOST, estimate_size(loaded, longest))
    with memory_explained(loaded.device, _LESS_MEMORY):
        for place in read_texts(loaded, texts, size, reader):
            index, rendered, text = ready[place]
            record = _record(loaded, watch, exchanges[index], text, reader.finished.pop(place))
            yield index, to_json(record), len(text.prompt) + len(text.response)


def _prepare(loaded: LoadedModel, watch: Watch, exchange: Exchange) -> tuple[Prompt, Text]:
    if exchange.problem:
        raise _UnreadableError(exchange.problem)
    system, messages = _parts(watch, exchange)
    try:
        said, _ = conversation(loaded, system, messages)
        rendered = render(loaded.tokenizer, said)
        response = tuple(encode_response(loaded.tokenizer, exchange.response))
        check_length(loaded, rendered, len(response))
    except TemplateError as error:
        raise _UnreadableError(f"the chat template of {loaded.name} refuses it: {error}") from None
    except UserError as error:
        raise _UnreadableError(f"{error.problem}: {error.cause}") from None
    if not response:
        raise _UnreadableError("the response is empty")
    if not rendered.ids:
        raise _UnreadableError("the prompt is empty")
    return rendered, Text(rendered.ids, response)


def _parts(watch: Watch, exchange: Exchange) -> tuple[str | None, list[Message]]:
    """The system message, its own or else the one that is set, and the other messages, down to what was asked."""
    before = list(exchange.history)
    own = before.pop(0)["content"] if before and before[0]["role"] == "system" else None
    asked = [{"role": "user", "content": exchange.prompt}] if exchange.prompt or not before else []
    return own or watch.config.system, [*before, *asked]


def _record(
    loaded: LoadedModel, watch: Watch, exchange: Exchange, text: Text, found: TextProjections
) -> TokenScores:
    tokens = token_texts(loaded.tokenizer, text.response)
    scores, by_row = watch.tabulate(tokens, found.response)
    prompt_scores = None
    if watch.prompts:
        prompt_scores, _ = watch.tabulate(
            token_texts(loaded.tokenizer, text.prompt, specials=True), found.prompt
        )
    system, messages = _parts(watch, exchange)
    before = messages[:-1] if exchange.prompt or len(messages) == 1 else messages
    record = TokenScores(
        tokens=scores.tokens,
        raw=scores.raw,
        calibrated=scores.calibrated,
        prompt=exchange.prompt,
        response="".join(tokens),
        layers=watch.layers,
        model=loaded.name,
        seed=watch.config.seed,
        prompt_tokens=len(text.prompt),
        finish_reason="provided",
        history=(*([{"role": "system", "content": system}] if system else []), *before),
        prompt_scores=prompt_scores,
        layer_scores=by_row,
        about=exchange.about,
    )
    return replace(record, crossings=_crossings(watch, record))


def _crossings(watch: Watch, record: TokenScores) -> tuple[Crossing, ...]:
    found: list[Crossing | None] = []
    for alarm in map(Alarm, watch.rules):
        scores = (record.raw if watch.raw else record.calibrated)[alarm.rule.trait]
        found += [*map(alarm.take, scores), alarm.end()]
    return tuple(crossing for crossing in found if crossing)


class ScoreExtremes:
    """The mean of each trait over texts, and which text has the lowest and the highest mean."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self._means: dict[str, list[tuple[float, str]]] = {}

    def take(self, record: Mapping[str, Any]) -> None:
        """The record of one more text, or of one that failed."""
        about = record.get("about", {})
        where = " ".join(f"{key} {about[key]}" for key in ("line", "turn") if key in about)
        if "error" in record:
            self.failures.append(f"{where}: {record['error']}" if where else record["error"])
            return
        for trait, raw in record["trait_scores"].items():
            scores = record["calibrated_scores"].get(trait, raw)
            self._means.setdefault(trait, []).append((fmean(scores), where))

    def rows(self) -> list[dict[str, Any]]:
        """One for each trait: mean, lowest and highest with where they are."""
        return [
            {
                "trait": trait,
                "texts": len(means),
                "mean": fmean(mean for mean, _ in means),
                "low": min(means),
                "high": max(means),
            }
            for trait, means in self._means.items()
        ]


class _UnreadableError(Exception):
    """An exchange cannot be read."""
