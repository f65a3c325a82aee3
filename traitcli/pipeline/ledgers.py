"""The ledgers of a run while a command works on it: parsed once, then appended to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from traitcli.pipeline.messages import Message, ResponsesRead, RolloutsMade
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.records import Judgement, Rollout, Trait, Usage
from traitcli.runs.run import Run
from traitcli.runs.states import StateBatch


class TraitLedgers:
    """The ledgers of one trait. Everything that is appended goes to disk first, then to memory."""

    def __init__(self, run: Run, name: str, definition: Trait | None) -> None:
        self._stored = TraitSnapshot.read(run, name, definition)
        self._rollouts = list(self._stored.rollouts)
        self._judgements = list(self._stored.all_judgements)
        self._vectors = list(self._stored.vectors)

    @property
    def rollouts(self) -> Sequence[Rollout]:
        return self._rollouts

    @property
    def snapshot(self) -> TraitSnapshot:
        """The present content of the ledgers."""
        # Copies: the judging thread appends while another thread reads its snapshot.
        return replace(
            self._stored,
            rollouts=self._rollouts.copy(),
            all_judgements=self._judgements.copy(),
            vectors=self._vectors.copy(),
        )

    def add_rollouts(self, rollouts: Sequence[Rollout], states: StateBatch | None) -> None:
        """Store a batch; without `states`, those that rollouts have are stored already."""
        # Disk first: if the write fails, memory must not have what the next command cannot read.
        self._stored.files.add_rollouts(rollouts, states)
        self._rollouts += rollouts

    @cached_property
    def neutral(self) -> set[str]:
        """The ids of the rollouts that have a neutral reading."""
        return self._stored.files.neutral_ids()

    def add_neutral(self, ids: Sequence[str], states: StateBatch | None) -> None:
        """Store neutral readings; without `states` they are stored already."""
        if states:
            self._stored.files.add_states(states)
        self.neutral.update(ids)

    def add_judgements(self, judgements: Sequence[Judgement]) -> None:
        self._stored.files.add_judgements(judgements)
        self._judgements += judgements

    def add_vector(self, path: Path, inputs: str) -> None:
        """Note that a vector was built; `inputs` is the digest of all that went into it."""
        self._stored.files.add_vector(path, inputs)
        self._vectors.append(path)


class RunLedgers:
    """The ledgers of a run, each parsed when it is first needed and not again."""

    def __init__(self, run: Run, traits: Iterable[Trait] = ()) -> None:
        """`traits` are the definitions that the command works with."""
        self.run = run
        # Other traits of the run have ledgers but no definition here: the command does not need it.
        self._definitions = {trait.name: trait for trait in traits}
        self._traits: dict[str, TraitLedgers] = {}

    def trait(self, name: str) -> TraitLedgers:
        if name not in self._traits:
            self._traits[name] = TraitLedgers(self.run, name, self._definitions.get(name))
        return self._traits[name]

    @property
    def all_traits(self) -> list[TraitLedgers]:
        """Every trait of the run, also those that the command does not work on."""
        return [self.trait(name) for name in self.run.trait_names()]

    def usage(self) -> Usage:
        """What judging cost in this run, by all judges."""
        return sum((trait.snapshot.usage for trait in self.all_traits), Usage())

    def spent(self) -> float:
        """US dollars that judging cost in this run; a judgement of unknown price counts as zero."""
        snapshots = [trait.snapshot for trait in self.all_traits]
        judgements = [made for snapshot in snapshots for made in snapshot.all_judgements]
        return sum(made.usage.usd or 0.0 for made in judgements)


def store_states(run: Run, message: Message) -> Message:
    """Write the states in a message of a worker, if it has any; returns it without them.

    May run in any thread: nothing is done until the ledger says so, and only the scheduler writes
    ledgers. Raises StorageError.
    """
    if isinstance(message, RolloutsMade | ResponsesRead) and message.states:
        run.trait(message.states.trait).add_states(message.states)
        return replace(message, states=None)
    return message
