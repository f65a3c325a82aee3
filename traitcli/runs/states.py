"""Files of mean hidden states, in which the means of a prompt are stored once for all its answers.

A file holds a batch of rollouts:

    response_avg               [n, L+1, H], one for each rollout in `ids`
    prompt_avg, prompt_last    [m, L+1, H], one for each prompt in `new_prompts`
    metadata                   `ids`, and `prompts`: the prompt of each rollout

A prompt that is not in `new_prompts` is in another file of the folder. Files of earlier versions
have no `prompts`, and all positions have n entries. Numbers are float32, or float16 with a scale
for each rollout and layer (`half`).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitcli.files import list_files, parse_json, write_atomic
from traitcli.records import POSITIONS, Context, Position

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from traitcli.records import Floats

FOLDERS: dict[Context, str] = {"persona": "activations", "neutral": "neutral"}
"""Folders of a trait: states behind the rollouts' own prompts, and behind their bare questions."""
_SCALE = ".scale"
_HALF_BITS = 15
"""Halves are scaled to lie below 2¹⁵, so that small numbers beside massive ones stay exact."""
_NAMES = {"float32": "F32", "float16": "F16"}


# Compared by identity, because comparing arrays gives no single truth value.
@dataclass(frozen=True, slots=True, eq=False)
class StateBatch:
    """States of rollouts of one trait, stacked as their file stores them.

    ids          the rollouts, in the order of the axis n
    prompts      the prompt of each rollout (see `digest_prompt`); none of neutral readings
    new_prompts  the prompts whose means are in this batch, in the order of the axis m
    tensors      position -> float32 [n or m, L+1, H]; `pack` may replace it by halves and scales
    half         whether to store half precision: the states of a model in half precision are no
                 more exact
    """

    trait: str
    ids: tuple[str, ...]
    tensors: Mapping[str, NDArray[Any]]
    prompts: tuple[str, ...] = ()
    new_prompts: tuple[str, ...] = ()
    half: bool = False
    context: Context = "persona"

    def only(self, ids: set[str]) -> StateBatch | None:
        """The batch without other rollouts; the means of prompts stay. None if it has none left."""
        kept = [index for index, name in enumerate(self.ids) if name in ids]
        if len(kept) == len(self.ids):
            return self
        own = {name: tensor for name, tensor in self.tensors.items() if _is_of_response(name)}
        tensors = {**self.tensors, **{name: tensor[kept] for name, tensor in own.items()}}
        names = tuple(self.ids[index] for index in kept)
        prompts = tuple(self.prompts[index] for index in kept) if self.prompts else ()
        return replace(self, ids=names, prompts=prompts, tensors=tensors) if kept else None

    def pack(self) -> StateBatch:
        """The batch with the numbers that its file stores."""
        if not self.half:
            return self
        tensors: dict[str, NDArray[Any]] = {}
        for name, tensor in self.tensors.items():
            tensors[name + _SCALE], tensors[name] = _halve(tensor)
        return replace(self, tensors=tensors, half=False)


def stack_states(
    trait: str,
    states: Mapping[str, Mapping[Position, Floats]],
    prompts: Mapping[str, str],
    stored: Collection[str] = (),
    half: bool = False,
) -> StateBatch:
    """Stack the states of rollouts, rollout id -> position -> float32 [L+1, H].

    `prompts` is rollout id -> prompt. The means of a prompt are those of the first rollout that has
    it; those of `stored` prompts are left out.
    """
    import numpy as np

    first: dict[str, str] = {}
    for name in states:
        if prompts[name] not in stored:
            first.setdefault(prompts[name], name)
    tensors = {"response_avg": np.stack([states[name]["response_avg"] for name in states])}
    if first:
        for position in POSITIONS[1:]:
            tensors[position] = np.stack([states[name][position] for name in first.values()])
    of_each = tuple(prompts[name] for name in states)
    return StateBatch(trait, tuple(states), tensors, of_each, tuple(first), half)


def stack_neutral(trait: str, states: Mapping[str, Floats], half: bool = False) -> StateBatch:
    """Stack neutral readings, rollout id -> float32 [L+1, H]."""
    import numpy as np

    tensors = {"response_avg": np.stack(list(states.values()))}
    return StateBatch(trait, tuple(states), tensors, half=half, context="neutral")


def digest_prompt(ids: Sequence[int]) -> str:
    """Sixteen hex digits that stand for a prompt: equal tokens have equal states."""
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:16]


def write_states(trait_folder: Path, batch: StateBatch) -> None:
    """Write a batch into its folder; it is on disk when this returns. Raises StorageError."""
    # The name depends on what is inside. So the same batch made again replaces its file, and a file
    # with the means of a prompt is replaced only by one that has them too.
    name = hashlib.sha256("\n".join((*batch.ids, *batch.new_prompts)).encode()).hexdigest()[:16]
    path = trait_folder / FOLDERS[batch.context] / f"{name}.safetensors"
    write_atomic(path, _file_parts(batch.pack()))


def stored_ids(trait_folder: Path, context: Context) -> set[str]:
    """The rollouts that have states."""
    return {name for _, meta in _files(trait_folder / FOLDERS[context]) for name in meta["ids"]}


def read_states(
    trait_folder: Path, ids: Sequence[str], position: Position, context: Context
) -> tuple[NDArray[np.float32] | None, int]:
    """float32 [n, L+1, H] of the named rollouts in their order, and how many have no states.

    The states of those are zero; without any states there is no array.
    """
    import numpy as np
    from safetensors import safe_open

    found = _locate(trait_folder / FOLDERS[context], position)
    # By file, so that each is opened once.
    rows: dict[Path, list[tuple[int, int]]] = defaultdict(list)
    for index, name in enumerate(ids):
        if name in found:
            path, row = found[name]
            rows[path].append((index, row))

    result: NDArray[np.float32] | None = None
    for path, chosen in rows.items():
        targets, sources = (list(each) for each in zip(*chosen, strict=True))
        with safe_open(path, framework="numpy") as file:
            block = file.get_tensor(position)[sources]
            scale, scales = f"{position}{_SCALE}", None
            if scale in file.keys():  # noqa: SIM118 - the file is no mapping
                scales = file.get_tensor(scale)[sources]
        # The files know the model's shape; this module does not.
        if result is None:
            result = np.zeros((len(ids), *block.shape[1:]), dtype=np.float32)
        result[targets] = block if scales is None else block * scales[..., None]
    return result, sum(name not in found for name in ids)


def _locate(folder: Path, position: Position) -> dict[str, tuple[Path, int]]:
    """Rollout id -> the file that has its states of a position, and the index there."""
    by_rollout: dict[str, tuple[Path, int] | str] = {}
    by_prompt: dict[str, tuple[Path, int]] = {}
    for path, meta in _files(folder):
        by_prompt.update({key: (path, row) for row, key in enumerate(meta["new_prompts"])})
        for row, name in enumerate(meta["ids"]):
            # A file of an earlier version, or of neutral readings, knows no prompts.
            is_shared = meta["prompts"] and not _is_of_response(position)
            by_rollout[name] = meta["prompts"][row] if is_shared else (path, row)

    located = {}
    for name, where in by_rollout.items():
        place = by_prompt.get(where) if isinstance(where, str) else where
        if place:
            located[name] = place
    return located


def _files(folder: Path) -> Iterator[tuple[Path, dict[str, list[str]]]]:
    """Files with the rollouts and prompts in them, oldest first.

    After a kill an older file may have rollouts that were made again; the newer file counts.
    """
    from safetensors import safe_open

    paths = list_files(folder, "*.safetensors")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):
        with safe_open(path, framework="numpy") as file:
            meta = file.metadata()
        yield (
            path,
            {key: parse_json(meta.get(key, "[]")) for key in ("ids", "prompts", "new_prompts")},
        )


def _is_of_response(name: str) -> bool:
    return name.removesuffix(_SCALE) == "response_avg"


def _halve(tensor: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scales [n, L+1], powers of two, and float16 [n, L+1, H]; their product is the tensor.

    A number has 11 exact bits, unless it is 2²⁹ times smaller than the largest of its layer.
    """
    import numpy as np

    largest = np.maximum(tensor.max(-1), -tensor.min(-1))
    exponents = np.frexp(largest)[1] - _HALF_BITS
    # NaN and infinity stay what they are: whoever reads them must find out.
    with np.errstate(over="ignore"):
        halves = np.ldexp(tensor, -exponents[..., None]).astype(np.float16)
    return np.ldexp(np.float32(1), exponents), halves


def _file_parts(batch: StateBatch) -> list[Any]:
    """The content of a safetensors file, without a copy of the tensors.

    Format: eight bytes with the length of the header, the header as JSON, the tensors.
    """
    import numpy as np

    tensors = {name: np.ascontiguousarray(each) for name, each in batch.tensors.items()}
    named = {"ids": batch.ids, "prompts": batch.prompts, "new_prompts": batch.new_prompts}
    header: dict[str, Any] = {
        "__metadata__": {key: json.dumps(names) for key, names in named.items() if names}
    }
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        kind = _NAMES[tensor.dtype.name]
        header[name] = {"dtype": kind, "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    return [len(text).to_bytes(8, "little"), text, *(tensor.data for tensor in tensors.values())]
