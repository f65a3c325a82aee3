"""Reads ready responses of a trait on a worker's device: the rollouts of a trait that generates none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from traitcli.config import Config
from traitcli.errors import DefinitionError
from traitcli.generation.batch_size import estimate_size
from traitcli.generation.detokenize import token_texts
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.request import Release, release_none
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import encode_response, raw_prompt, render
from traitcli.models.read_texts import Text, read_texts
from traitcli.pipeline.flush import Finished, hand_over
from traitcli.pipeline.messages import Began, GaveUp, Generating, Tell
from traitcli.pipeline.worker_context import Worker
from traitcli.records import LabelledResponse, Rollout, RolloutKey

if TYPE_CHECKING:
    from traitcli.models.loaded import LoadedModel

_TOGETHER = 256
"""Texts between two looks at what others ask for."""
_SIDE_BY_SIDE = 64
"""Texts in one pass, at most; more are no faster."""
_FAULTS_TOLD = 10


@dataclass(frozen=True, slots=True)
class _Planned:
    """A response that can be read: the rollout that it becomes, and its tokens."""

    rollout: Rollout
    text: Text


def read_labelled_responses(
    task: Generating,
    config: Config,
    worker: Worker,
    tell: Tell,
    tick: Callable[[int], None] = lambda tokens: None,
    release: Release = release_none,
) -> None:
    """Read responses and hand them over like generated ones, by the same accounts of hidden states.

    Raises DefinitionError, before anything is read, for those that do not fit the model.
    """
    loaded = worker.model()
    planned = _prepare(task, loaded)
    tell(Began())
    hand_over(_read(loaded, planned, _size(loaded, planned, config), tick, release), tell)


def _read(
    loaded: LoadedModel,
    planned: Sequence[_Planned],
    size: int,
    tick: Callable[[int], None],
    release: Release,
) -> Iterator[Finished | GaveUp]:
    start, end = 0, len(planned)
    fix = "set extract.batch_size lower, or leave the longest texts out; what is finished is kept"
    while start < end:
        kept = end - release(end - start)
        yield from (GaveUp((planned[index].rollout.id,)) for index in range(kept, end))
        end = kept
        some = planned[start : min(start + _TOGETHER, end)]
        yield from (Finished(one.rollout, None) for one in some if not one.text.response)
        full = [one for one in some if one.text.response]
        reader = MeanReader(loaded)
        with memory_explained(loaded.device, fix):
            for place in read_texts(loaded, [one.text for one in full], size, reader):
                read = reader.finished.pop(place) or {}
                yield Finished(
                    full[place].rollout,
                    {position: states.numpy() for position, states in read.items()},
                )
                tick(0)  # no token is written
        start += len(some)


def _size(loaded: LoadedModel, planned: Sequence[_Planned], config: Config) -> int:
    if config.extract.batch_size != "auto":
        return config.extract.batch_size
    longest = max(len(one.text.prompt) + len(one.text.response) for one in planned)
    return min(_SIDE_BY_SIDE, estimate_size(loaded, longest))


def _prepare(task: Generating, loaded: LoadedModel) -> list[_Planned]:
    """Tokenise every response and check it."""
    ready = task.trait.by_rollout()
    planned, faults = [], []
    for key in task.keys:
        response = ready[key]
        one = _plan(loaded.tokenizer, key, response)
        if fault := _fault(loaded, one.text, response):
            faults.append(f"{response.file} line {response.line}: {fault}")
        planned.append(one)
    if faults:
        more = len(faults) - _FAULTS_TOLD
        raise DefinitionError(
            f"{task.trait.name}: some ready responses do not fit {loaded.name}",
            cause="\n".join([*faults[:_FAULTS_TOLD], *([f"and {more} more"] if more > 0 else [])]),
            fix="shorten them or leave them out",
        )
    return planned


def _fault(loaded: LoadedModel, text: Text, response: LabelledResponse) -> str:
    """Why a response cannot be read, or ""."""
    length = len(text.prompt) + len(text.response)
    if length > loaded.context:
        return f"{length} tokens, where {loaded.context} are the most"
    if not text.prompt:
        return "nothing stands before it, and the model has no token that begins a text"
    if not text.response and response.form == "text":
        return "nothing stands behind its last special token"
    return ""


def _plan(tokenizer: Any, key: RolloutKey, response: LabelledResponse) -> _Planned:
    """The rollout that a response becomes; a special token that an answer spells out stays text."""
    before, after = response.before, response.text
    if response.form == "text":
        before, after, text = _cut(tokenizer, response)
    else:
        asked = [{"role": "user", "content": before}]
        prompt = (
            render(tokenizer, asked) if response.form == "answer" else raw_prompt(tokenizer, before)
        )
        before, text = prompt.text, Text(prompt.ids, tuple(encode_response(tokenizer, after)))
    rollout = Rollout(
        id=key.id,
        **asdict(key),
        seed=0,
        prompt=before,
        response=after,
        prompt_tokens=len(text.prompt),
        response_tokens=len(text.response),
        finish_reason="given",
    )
    return _Planned(rollout, text)


def _cut(tokenizer: Any, response: LabelledResponse) -> tuple[str, str, Text]:
    """One text in two: where the definition cuts it, or later, behind its last special token.

    What two whole texts share may begin with the end of a chat template; no token of that is a response.
    """
    whole = raw_prompt(tokenizer, response.before + response.text)
    before = raw_prompt(tokenizer, response.before).ids if response.before else ()
    same = (own == other for own, other in zip(before, whole.ids, strict=False))
    cut = sum(takewhile(bool, same))
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    special.discard(tokenizer.unk_token_id)
    start = max([cut, *(place + 1 for place, token in enumerate(whole.ids) if token in special)])
    text = Text(whole.ids[:start], whole.ids[start:])
    if start == cut:
        return response.before, response.text, text
    after = "".join(token_texts(tokenizer, text.response))
    return whole.text.removesuffix(after), after, text
