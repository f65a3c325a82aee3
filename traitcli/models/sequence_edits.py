"""Steers the sequences of a batch side by side, each in its own way.

`BlockEdit` has a hook of its own, which edits all sequences of a pass. Here one hook for each block
edits each sequence by its own list:

    pass        a5 | b2 | c9          (letter: sequence, digit: position)
    block 2     +v   ·    ablate      pushes of all sequences are one addition
    block 3     +w   +w   cap
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest
from typing import TYPE_CHECKING, Any

import torch

from traitcli.models.block_edit import BlockEdit
from traitcli.models.brakes import ActivationCapper, GatedSteerer
from traitcli.models.hooks import find_blocks, hidden_of
from traitcli.models.loaded import LoadedModel
from traitcli.models.reader import Phase
from traitcli.models.steerer import ActivationSteerer

if TYPE_CHECKING:
    from torch import Tensor

    from traitcli.models.sequence_memory import Memories

_Operation = tuple["slice | Tensor", Callable[["Tensor"], "Tensor"]]
"""Columns of a pass, and what becomes of their states [1, n, H]."""


@dataclass(slots=True, eq=False)
class SequenceSteering:
    """How one sequence is steered.

    edits     those of a block act by their `turn`, and then in this order; they belong to this
              sequence alone, and their own hooks are not used
    memories  what its gates remember of it
    """

    edits: Sequence[BlockEdit] = ()
    memories: Memories = field(default_factory=dict)

    @property
    def gates(self) -> list[GatedSteerer]:
        """Its gated pushes."""
        return [edit for edit in self.edits if isinstance(edit, GatedSteerer)]

    @property
    def keeps_prompt(self) -> bool:
        """Whether all tokens of a prompt but its last one are as they are without steering."""
        return not any(edit.has_effect and edit.positions == "all" for edit in self.edits)

    @property
    def brakes(self) -> list[ActivationCapper | GatedSteerer]:
        """Its caps and gates, which hold at some tokens only."""
        return [edit for edit in self.edits if isinstance(edit, ActivationCapper | GatedSteerer)]


class SequenceEdits:
    """Edits the output of every block inside `running`, each sequence's states in its own way.

    Pushes act at the last token of a prompt and at answer tokens, gates at answer tokens, ablations
    and caps at all tokens, as in `Steering`.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._blocks = find_blocks(loaded.model)
        self.sequences: list[SequenceSteering] = []
        """Those of the last pass."""
        self._starts: list[int] = []
        self._phase: Phase = "prompt"
        # Block -> what is done with its output, one thing after the other.
        self._plan: dict[Any, list[_Operation]] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hook all blocks; the hooks come before those that are there, and are removed on exit."""
        with ExitStack() as hooks:
            for block in self._blocks:
                hook = block.register_forward_hook(self._edit, prepend=True)
                hooks.callback(hook.remove)
            try:
                yield
            finally:
                self.clear()

    def begin(
        self, phase: Phase, sequences: Sequence[SequenceSteering], lengths: Sequence[int]
    ) -> None:
        """Announce a pass over tokens of `sequences`, `lengths` of each, one after another.

        Tokens of prompts end with the last token of the prompt; those of responses are one each.
        """
        starts = [0, *accumulate(lengths)]
        # From step to step, the same sequences have the same columns.
        if phase == "prompt" or phase != self._phase or sequences != self.sequences:
            self._phase, self.sequences, self._starts = phase, list(sequences), starts
            self._plan = self._make_plan()
        if phase == "response":
            for sequence in sequences:
                for edit in sequence.gates:
                    edit.gate.begin_step(sequence.memories)

    def read_layer(self, layer: int, hidden: Tensor) -> None:
        """Let gates see the states [N, H] of a layer, behind all edits."""
        if self._phase == "prompt":
            return
        for column, sequence in enumerate(self.sequences):
            for edit in sequence.gates:
                if edit.gate.layer == layer:
                    edit.gate.read(layer, hidden[None, column : column + 1])

    def clear(self) -> None:
        """Forget the sequences of the last pass."""
        self.sequences, self._plan = [], {}

    def _make_plan(self) -> dict[Any, list[_Operation]]:
        by_block: dict[Any, list[list[tuple[int, BlockEdit]]]] = {}
        for number, sequence in enumerate(self.sequences):
            own: dict[Any, list[tuple[int, BlockEdit]]] = {}
            for edit in sorted(sequence.edits, key=lambda edit: edit.turn):
                is_closed = self._phase == "prompt" and isinstance(edit, GatedSteerer)
                if edit.has_effect and not is_closed:
                    own.setdefault(edit.block, []).append((number, edit))
            for block, edits in own.items():
                by_block.setdefault(block, []).append(edits)
        # The first edit of every sequence, then the second of every sequence, …
        return {
            block: [
                operation
                for turn in zip_longest(*edits)
                for operation in self._operations([one for one in turn if one])
            ]
            for block, edits in by_block.items()
        }

    def _operations(self, turn: Sequence[tuple[int, BlockEdit]]) -> Iterator[_Operation]:
        """What edits of different sequences do, all pushes at once."""
        pushes: list[ActivationSteerer] = []
        columns: list[int] = []
        for number, edit in turn:
            start, end = self._starts[number], self._starts[number + 1]
            if isinstance(edit, ActivationSteerer) and not isinstance(edit, GatedSteerer):
                pushes.append(edit)
                columns.append(end - 1)
            else:
                yield slice(start if edit.positions == "all" else end - 1, end), edit.edit
        if len(pushes) == 1:
            yield slice(columns[0], columns[0] + 1), pushes[0].edit
        elif pushes:
            yield torch.tensor(columns), _add(torch.stack([push.added.cpu() for push in pushes]))

    def _edit(self, block: Any, args: tuple[Any, ...], output: Any) -> Any:
        operations = self._plan.get(block)
        if not operations:
            return output
        # A copy: others may still hold the tensor that the block returned.
        steered = hidden_of(output).clone()
        for number, (at, edit) in enumerate(operations):
            columns = at.to(steered.device) if isinstance(at, torch.Tensor) else at
            # Kept on the device of the block from the first pass on.
            operations[number] = columns, edit
            steered[:, columns] = edit(steered[:, columns])
        return (steered, *output[1:]) if isinstance(output, tuple) else steered


def _add(added: Tensor) -> Callable[[Tensor], Tensor]:
    """Adds `added` float32 [n, H] to states [1, n, H]."""
    sent = added

    def add(states: Tensor) -> Tensor:
        nonlocal sent
        # Kept on the device of the block from the first pass on.
        sent = sent.to(states.device, states.dtype)
        return states + sent

    return add
