"""Reads the residual stream while a model runs: finds its blocks and taps their outputs.

Row 0 is the input of the first block (the embedding output), row k (1 ≤ k < L) the output of
block k−1, row L the decoder's last hidden state, after the final norm: what transformers
returns as `hidden_states`, without keeping any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from traitcli.errors import ModelError

if TYPE_CHECKING:
    import torch

Sink = Callable[[int, "torch.Tensor"], None]
"""Called with a row and its hidden states [B, T, H] during every forward pass."""


def find_blocks(model: Any) -> Any:
    """The ModuleList of transformer blocks of a causal language model.

    Raises ModelError when the model does not show one of the configured length.
    """
    from torch import nn

    wanted = model.config.get_text_config().num_hidden_layers
    decoder = model.get_decoder()
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return module
    raise ModelError(
        f"cannot find the blocks of {type(model).__name__}",
        cause=f"no list of {wanted} blocks in its decoder",
        fix="report the model: it may be an encoder-decoder or a hybrid",
    )


@contextmanager
def tap(model: Any, rows: Iterable[int], sink: Sink) -> Iterator[None]:
    """WorkerState the hidden states of `rows` to `sink` in every forward pass; hooks leave on exit."""
    blocks = find_blocks(model)
    with ExitStack() as hooks:
        for row in rows:
            hooks.callback(_hook(model, blocks, row, sink).remove)
        yield


def hidden_of(output: Any) -> torch.Tensor:
    """The hidden states in what a block returns: a bare tensor, or the first of a tuple."""
    return output[0] if isinstance(output, tuple) else output  # type: ignore[no-any-return]


def _hook(model: Any, blocks: Any, row: int, sink: Sink) -> Any:
    if row == 0:

        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            sink(0, args[0] if args else kwargs["hidden_states"])

        return blocks[0].register_forward_pre_hook(before, with_kwargs=True)
    if row == len(blocks):
        return model.get_decoder().register_forward_hook(
            lambda module, args, output: sink(row, _last_state(output))
        )
    return blocks[row - 1].register_forward_hook(
        lambda module, args, output: sink(row, hidden_of(output))
    )


def _last_state(output: Any) -> torch.Tensor:
    return output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]  # type: ignore[no-any-return]
