"""Trains a vector on labelled examples in memory, without a run folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.config import Config, FilterConfig
from traitcli.errors import DefinitionError
from traitcli.events import Listener, Warned
from traitcli.generation.request import release_none
from traitcli.judging import ProvidedJudge, judge_id
from traitcli.models.identity import identity_of
from traitcli.models.loaded import LoadedModel
from traitcli.models.prompts import conversation, render
from traitcli.pipeline.build_vector import chosen_layer, compute_vector, with_provenance
from traitcli.pipeline.messages import RolloutsReleased
from traitcli.pipeline.read_responses import choose_size, plan_readings, read_planned
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.records import (
    POLARITIES,
    Context,
    Contrast,
    LabelledResponse,
    Polarity,
    Position,
    Rollout,
    Trait,
    TraitVector,
)
from traitcli.runs.run import Run, TraitFiles
from traitcli.traits.contrast_pairs import Pair, draft_pairs
from traitcli.traits.drafts import Draft, FaultError, check_text, normalize_question
from traitcli.traits.labelled_responses import number_drafts

if TYPE_CHECKING:
    from traitcli.records import Floats

Chat = Sequence[Mapping[str, str]]
Example = str | tuple[str, str] | Chat
"""A text; a prompt and its response; or a chat whose last message is the model's."""

_KINDS = "a text, a (prompt, response) tuple, or a list of messages with role and content"


def train_vector(
    loaded: LoadedModel, trait: Trait, config: Config, on_event: Listener = lambda event: None
) -> TraitVector:
    """Read a trait's labelled responses, and build and measure a vector on them.

    Args:
        loaded: The model that reads them.
        trait: Labelled responses; see `trait_of`.
        config: Its vector section says how the vector is built.
        on_event: Receives warnings.

    Raises DefinitionError when a response does not fit the model, RunError when there are fewer
    than two of a side, VectorError for a layer that does not exist.
    """
    # Checked before the examples, so that neither mistake hides the other.
    chosen_layer(config, loaded.layer_count)
    planned = plan_readings(trait, list(trait.by_rollout()), loaded, _place)
    size = choose_size(loaded, planned, config, trait.name, _warnings(on_event))
    rollouts: list[Rollout] = []
    states: dict[str, Mapping[Position, Floats]] = {}
    for one in read_planned(loaded, planned, size, lambda tokens: None, release_none):
        assert not isinstance(one, RolloutsReleased)  # noqa: S101 - nobody takes work over
        rollouts.append(one.rollout)
        states[one.rollout.id] = one.activations or {}

    # The same steps as for a run on disk, so the two cannot give different vectors.
    files = _StatesInMemory(Path(trait.name), states)
    order = {key.id: number for number, key in enumerate(trait.by_rollout())}
    rollouts.sort(key=lambda one: order[one.id])
    snapshot = TraitSnapshot(
        _RunInMemory(Path("memory"), files), trait.name, trait, rollouts, [], []
    )
    judge = judge_id(ProvidedJudge(), trait)
    selection = snapshot.select(judge, FilterConfig())
    vector = compute_vector(trait, config, snapshot, selection, judge)
    counts = Counter(response.polarity for response in trait.responses)
    origin = {"model_identity": identity_of(loaded), "judge": judge, "examples": dict(counts)}
    return with_provenance(vector, origin)


def trait_of(
    loaded: LoadedModel, name: str, positive: Iterable[Example], negative: Iterable[Example]
) -> Trait:
    """A trait of labelled responses from examples of both sides.

    As many texts of each side are taken for pairs in this order. Raises DefinitionError for
    examples that are empty, or of another kind than the first.
    """
    both = zip(POLARITIES, (positive, negative), strict=True)
    sides = {side: _listed(name, side, examples) for side, examples in both}
    drafts = list(_drafts(loaded, name, sides))
    found = number_drafts(drafts, f"the examples of {name}")
    return Trait(
        name,
        description="",
        meaning=Contrast(f"shows {name}", f"does not show {name}"),
        adjectives=Contrast("", ""),
        pairs=(),
        questions=found.questions,
        evaluation_questions=(),
        judge_prompt="",
        responses=found.responses,
    )


def _listed(name: str, side: Polarity, examples: Iterable[Example]) -> list[Example]:
    if isinstance(examples, str) or not isinstance(examples, Iterable):
        kind = "one text" if isinstance(examples, str) else f"of type {type(examples).__name__}"
        raise _fault(name, f"{side} is {kind}", f"give a list: {side}=[…]")
    return list(examples)


def _drafts(
    loaded: LoadedModel, name: str, sides: Mapping[Polarity, Sequence[Example]]
) -> Iterator[Draft]:
    kind = next((_kind(one) for examples in sides.values() for one in examples), None)
    for side, examples in sides.items():
        for index, example in enumerate(examples):
            if not _kind(example) or _kind(example) != kind:
                cause = f"{side}[{index}] is {_kind(example) or type(example).__name__}"
                others = f", the first example is {kind}" if kind else ""
                raise _fault(name, cause + others, f"give examples of one kind: {_KINDS}")

    lengths = {len(examples) for examples in sides.values()}
    if kind == "a text" and len(lengths) == 1:
        texts = zip(
            *(_texts(name, side, examples) for side, examples in sides.items()), strict=True
        )
        path = Path(name)
        yield from draft_pairs([Pair(path, n, "", *two) for n, two in enumerate(texts, start=1)])
        return
    for side, examples in sides.items():
        uses: Counter[str] = Counter()
        for index, example in enumerate(examples):
            response, question, group = _labelled(loaded, name, (side, index), example)
            uses[group] += 1
            yield Draft(response, question, group, uses[group])


def _labelled(
    loaded: LoadedModel, name: str, place: tuple[Polarity, int], example: Any
) -> tuple[LabelledResponse, str, str]:
    """One example as a labelled response, its question, and the group of equal questions."""
    side, index = place
    label = f"{side}[{index}]"

    def response(before: str, text: str, form: Any) -> LabelledResponse:
        checked = [_check(name, label, each) for each in (before, text)]
        if not text.strip():
            raise _fault(name, f"{label} has an empty response", "leave it out")
        return LabelledResponse(side, 0, 0, 0, checked[0], checked[1], form, name, index + 1)

    match _kind(example):
        case "a text":
            # "\0" keeps the group apart from every question.
            return response("", example, "text"), "", f"\0{example}"
        case "a pair":
            return (
                response(example[0], example[1], "answer"),
                example[0],
                normalize_question(example[0]),
            )
    *before, last = example
    if last.get("role") != "assistant" or not before:
        cause = f"the last message of {label} is of role {last.get('role')!r}"
        raise _fault(name, cause, "end each chat with the assistant's message, which is read")
    system = before[0]["content"] if before[0]["role"] == "system" else None
    messages, _ = conversation(loaded, system, [dict(one) for one in before[bool(system) :]])
    prompt = render(loaded.tokenizer, messages, loaded.chat).text
    return response(prompt, last["content"], "raw"), before[-1]["content"], f"\0{prompt}"


def _kind(example: Any) -> str:
    """The kind of an example in words; "" for anything else."""
    if isinstance(example, str):
        return "a text"
    if not isinstance(example, Sequence) or not example:
        return ""
    if isinstance(example, tuple) and len(example) == 2 and all(map(_is_text, example)):
        return "a pair"
    is_chat = all(
        isinstance(one, Mapping) and _is_text(one.get("role")) and _is_text(one.get("content"))
        for one in example
    )
    return "a chat" if is_chat else ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(name: str, side: Polarity, examples: Sequence[Any]) -> list[str]:
    texts = [_check(name, f"{side}[{index}]", text) for index, text in enumerate(examples)]
    for index, text in enumerate(texts):
        if not text.strip():
            raise _fault(name, f"{side}[{index}] is empty", "leave it out")
    return texts


def _place(example: LabelledResponse) -> str:
    return f"{example.polarity}[{example.line - 1}]"


def _check(name: str, label: str, text: str) -> str:
    try:
        return check_text(text, label)
    except FaultError as error:
        raise _fault(name, str(error), "shorten or correct it") from None


def _fault(name: str, cause: str, fix: str) -> DefinitionError:
    return DefinitionError(f"cannot train {name} on these examples", cause=cause, fix=fix)


def _warnings(on_event: Listener) -> Any:
    """A function that passes warnings on, and no other message of a worker."""

    def send(message: object) -> None:
        if isinstance(message, Warned):
            on_event(message)

    return send


@dataclass(frozen=True, slots=True)
class _StatesInMemory(TraitFiles):
    """States of rollouts: id -> position -> float32 [L+1, H]."""

    states: Mapping[str, Mapping[Position, Floats]]

    def activations(
        self, ids: Sequence[str], position: Position, context: Context = "persona"
    ) -> Floats:
        return np.stack([self.states[each][position] for each in ids])

    def neutral_ids(self) -> set[str]:
        return set()


@dataclass(frozen=True, slots=True)
class _RunInMemory(Run):
    files: TraitFiles

    def trait(self, name: str) -> TraitFiles:
        return self.files
