"""A loaded model: its weights, its tokenizer, and what the rest of traitcli must know of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from traitcli.models.chat_format import ChatFormat

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class PathCheck:
    """How one way of reading compares with a plain pass.

    error    largest relative error of a hidden state or of the logits; none if the way failed
    layer    layer of that error; L + 1 stands for the logits
    problem  why the way is not used; empty if it agrees
    """

    path: str
    error: float | None
    layer: int | None
    problem: str


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What `run_self_test` found.

    packs    whether packed tokens are read as in a plain pass
    pads     whether padded batches are
    problem  why the model is read correctly in no way; empty if it is
    groups   layers whose keys and values can be neighbors in memory, see `KVStore`
    """

    checks: tuple[PathCheck, ...]
    packs: bool
    pads: bool
    problem: str
    groups: tuple[tuple[int, ...], ...] = ()

    @property
    def slow_reason(self) -> str:
        """Why the fastest way, packed, is not used; empty if it is."""
        return first_problem([c for c in self.checks if c.path.startswith("packed")])


def first_problem(checks: Sequence[PathCheck]) -> str:
    """The first problem of any check, with its path; empty if all agree."""
    problems = (f"{check.path}: {check.problem}" for check in checks if check.problem)
    return next(problems, "")


DecodeLoop = Literal["moving", "fixed", "graph"]


# Compared by identity: comparing weights would take long and mean nothing.
@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model ready to read and write with.

    id           the hub's name, or the absolute path of a folder or file
    fingerprint  of its weights; see `fingerprint_weights`
    device       where its inputs go
    blocks       number of transformer blocks, L
    hidden_size  width of the residual stream, H
    context      most tokens of a prompt and its answer
    persona_in   the message that the persona sentence goes into
    chat         how its chat template writes messages
    stop_ids     token ids that end an answer
    last_logits  whether its forward pass can skip all logits but the last
    packs        whether packed sequences give the states of a plain pass; see `run_self_test`
    pads         whether padded batches do; if neither is true, each text is read alone
    self_test    how every way of reading compares with a plain pass; none before the test
    decode_loop  how answers are written, see the configuration
    is_borrowed  whether it belongs to the user, who gets it back as it was; see `using`
    massive_above  length of a hidden state above which it is massive, for layers 0 to L; empty
                 before it is measured
    """

    name: str
    revision: str
    model: Any
    tokenizer: Any
    device: torch.device
    blocks: int
    hidden_size: int
    context: int
    persona_in: Literal["system", "user"]
    stop_ids: frozenset[int]
    last_logits: bool
    chat: ChatFormat = field(default_factory=ChatFormat)
    packs: bool = False
    pads: bool = True
    self_test: SelfTest | None = None
    massive_above: tuple[float, ...] = ()
    id: str = ""
    fingerprint: str = ""
    decode_loop: DecodeLoop = "moving"
    is_borrowed: bool = False

    @property
    def is_spread(self) -> bool:
        """Whether accelerate has put its blocks on several devices."""
        # transformers notes here which device each part is on; on a single device it may not.
        device_map = getattr(self.model, "hf_device_map", None) or {}
        return len(set(device_map.values())) > 1

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """The devices that it computes on, `device` among them."""
        import torch

        placed = set(self.model.hf_device_map.values()) if self.is_spread else set()
        # What accelerate keeps on the CPU or on disk is computed on the device of its inputs.
        numbers = {where for where in placed if where not in {"cpu", "disk"}}
        found = {
            # accelerate names a GPU by its number alone.
            torch.device(self.device.type, where) if isinstance(where, int) else torch.device(where)
            for where in numbers
        }
        return tuple(sorted(found | {self.device}, key=str))

    @property
    def layer_count(self) -> int:
        """Layers of a vector, L + 1."""
        return self.blocks + 1
