"""Finds out by trying whether a model can read packed inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import ran_out_of_memory
from traitcli.models.packed_attention import (
    KVStore,
    PackedInput,
    run_packed,
    use_packed_attention,
)

if TYPE_CHECKING:
    from torch import Tensor


def find_packing_problem(loaded: LoadedModel) -> str:
    """Why a model cannot read packed inputs; empty if it can.

    Two short texts are read in two packed passes and compared with the model's own logits. So
    whatever a model has besides plain attention (position biases, recurrent layers) is found
    without a list of models.
    """
    config = loaded.model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        return f"it has layers of {' and '.join(sorted(unknown))}"

    texts = [(7, 11, 5, 13, 9), (3, 8, 4)]
    try:
        expected = _own_logits(loaded, texts)
        found, windows = _packed_logits(loaded, texts)
    except (
        TypeError,
        ValueError,
        RuntimeError,
        AttributeError,
        KeyError,
        NotImplementedError,
    ) as error:
        # Whatever an unknown model raises here means that it does not fit, but for one thing.
        if ran_out_of_memory(error):
            raise
        return f"its attention does not take packed tokens ({type(error).__name__})"

    # The texts are too short to show a window that is not passed on.
    if "sliding_attention" in kinds and windows <= {None}:
        return "its attention does not pass on its sliding window"
    # The two attentions round differently. Another kind of attention differs far more.
    difference = float((found.float() - expected).norm() / expected.norm())
    if not difference < (1e-3 if found.dtype == torch.float32 else 0.05):
        return f"packed tokens change its logits by {difference:.1g}"
    return ""


@torch.inference_mode()
def _own_logits(loaded: LoadedModel, texts: Sequence[tuple[int, ...]]) -> Tensor:
    """float32 [R, V] after the last token of each text, by the model's own attention."""
    logits = []
    for text in texts:
        output = loaded.model(torch.tensor([text], device=loaded.device))
        logits.append(output.logits[0, -1])
    return torch.stack(logits).float()


@torch.inference_mode()
def _packed_logits(
    loaded: LoadedModel, texts: Sequence[tuple[int, ...]]
) -> tuple[Tensor, set[int | None]]:
    """The same by two packed passes, the second for the last token; and the windows seen."""
    store = KVStore(len(texts), max(map(len, texts)))
    beginnings = [text[:-1] for text in texts]
    known = [len(beginning) for beginning in beginnings]
    with use_packed_attention(loaded):
        prefill = PackedInput(store, 0, [0] * len(texts), beginnings, loaded.device)
        run_packed(loaded, prefill, prefill.ends)
        step = PackedInput(store, 0, known, [text[-1:] for text in texts], loaded.device)
        return run_packed(loaded, step, step.ends), step.windows
