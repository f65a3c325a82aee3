"""Reads and writes the file of lm-eval's model `steered`: a .pt file with one entry a module.

`{name of a block: {"steering_vector": [H], "steering_coefficient": c, "action": "add", …}}`. The
name is that below `base_model` of transformers, such as `layers.15`; c times the vector is added
to the block's output at every position.

Source: `SteeredModel` of lm-eval 0.4.13.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.files import write_atomic
from traitcli.vectors.formats.layers import Origin, finite_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_DIRECTION = "steering_vector"
_BLOCK = re.compile(r"(?:\w+\.)*(?:layers|blocks|h)\.(?P<block>\d{1,4})")
"""`layers.15`, `h.15`, `language_model.layers.15`: a whole block, and no module inside of it."""


def write_steered(path: Path, hookpoint: str, direction: Floats, about: Mapping[str, Any]) -> None:
    """Write float32 [H] for one block; `about` is stored under the key `traitcli`."""
    import torch

    entry = {
        _DIRECTION: torch.from_numpy(np.array(direction, np.float32)),
        "steering_coefficient": 1.0,
        "action": "add",
        "bias": None,
        "head_index": None,
        "traitcli": dict(about),
    }
    file = io.BytesIO()
    torch.save({hookpoint: entry}, file)
    write_atomic(path, file.getvalue())


def is_steered(content: Any) -> bool:
    """Whether the content of a .pt file is that of `steered`."""
    if not isinstance(content, Mapping) or not content:
        return False
    return all(isinstance(one, Mapping) and _DIRECTION in one for one in content.values())


def read_steered(
    content: Mapping[Any, Any], origin: Origin
) -> tuple[dict[int, Floats], int | None, Origin]:
    """Layer -> float32 [H]; L+1 if traitcli wrote the file; what the file says about itself.

    Numbers are read as they are stored: the coefficient is a setting of the steering, and is kept
    in the provenance where it is not 1.

    Raises VectorError when an entry is not of a whole block.
    """
    layers: dict[int, Floats] = {}
    settings = []
    for name, entry in content.items():
        shown, match = repr(str(name)[:80]), _BLOCK.fullmatch(str(name))
        if match is None:
            origin.refuse(
                f"it steers {shown}, which is not a whole block",
                "traitcli reads the outputs of blocks: name them layers.15, blocks from 0",
            )
        if entry.get("head_index") is not None:
            origin.refuse(
                f"it steers one attention head of {shown}", "train it on the output of a block"
            )
        if not isinstance(entry[_DIRECTION], np.ndarray):
            origin.refuse(f"{shown} holds no tensor", "save one [H] for each block")
        layer = int(match["block"]) + 1
        if layer in layers:
            origin.refuse(f"two entries belong to block {layer - 1}", "keep one of them")
        layers[layer] = entry[_DIRECTION]
        coefficient = finite_number(entry.get("steering_coefficient", 1.0))
        action = str(entry.get("action"))[:80]
        if coefficient != 1.0 or action != "add":
            settings.append({"block": layer - 1, "coefficient": coefficient, "action": action})
    entries = list(content.values())
    about = entries[0].get("traitcli") if len(entries) == 1 else None
    layer_count, origin = origin.with_about(about)
    more = {**origin.more, "steering": settings} if settings else origin.more
    return layers, layer_count, replace(origin, form="lm-eval steered", more=more)
