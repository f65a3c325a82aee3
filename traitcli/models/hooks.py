"""Reads the residual stream while a model runs: finds its blocks and hooks their outputs.

Layer 0 is the input of the first block (the embedding output), layer k (1 ≤ k < L) the output of
block k−1, layer L the decoder's last hidden state, after the final norm. This is what
transformers returns as `hidden_states`, but no state is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from traitcli.errors import ModelError

if TYPE_CHECKING:
    import torch

Sink = Callable[[int, "torch.Tensor"], None]
"""Called with a layer and its hidden states [B, T, H] in every forward pass."""


def find_blocks(model: Any) -> Any:
    """The ModuleList of transformer blocks of a causal language model.

    Raises ModelError if no module of it holds a list of as many blocks as its config has layers.
    """
    return _find_decoder(model)[1]


def _find_decoder(model: Any) -> tuple[Any, Any]:
    """The module that runs the blocks and the final norm, and its list of blocks."""
    from torch import nn

    # Families give the list different names; its length is the one thing that they all share.
    block_count = model.config.get_text_config().num_hidden_layers
    # In the decoder first: an image encoder may have as many blocks. But what transformers calls
    # the decoder may be the language model head.
    for root in (model.get_decoder(), model):
        for owner in root.modules():
            for child in owner.children():
                if isinstance(child, nn.ModuleList) and len(child) == block_count:
                    return owner, child
    raise ModelError(
        f"cannot find the blocks of {type(model).__name__}",
        cause=f"no list of {block_count} blocks in it",
        fix="use a decoder-only model, or open an issue that names this one",
    )


@contextmanager
def tap(model: Any, layers: Iterable[int], sink: Sink) -> Iterator[None]:
    """Call `sink` with the hidden states of `layers` in every forward pass.

    The hooks are removed on exit.
    """
    decoder, blocks = _find_decoder(model)
    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(_hook(decoder, blocks, layer, sink).remove)
        yield


def hidden_of(output: Any) -> torch.Tensor:
    """The hidden states in what a block returns: a bare tensor, or the first item of several.

    Blocks of transformers 5 return tensors; older ones, and models' own code, return tuples.
    """
    return output[0] if isinstance(output, tuple | list) else output  # type: ignore[no-any-return]


def _hook(decoder: Any, blocks: Any, layer: int, sink: Sink) -> Any:
    if layer == 0:

        def read_input(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            sink(0, args[0] if args else kwargs["hidden_states"])

        # The embedding module's own output is not layer 0: Gemma 2 scales it afterwards.
        return blocks[0].register_forward_pre_hook(read_input, with_kwargs=True)

    if layer == len(blocks):
        # The last block's output lacks the final norm, so the decoder itself is hooked.
        return decoder.register_forward_hook(
            lambda module, args, output: sink(layer, _last_state(output))
        )
    return blocks[layer - 1].register_forward_hook(
        lambda module, args, output: sink(layer, hidden_of(output))
    )


def _last_state(output: Any) -> torch.Tensor:
    if hasattr(output, "last_hidden_state"):
        return output.last_hidden_state  # type: ignore[no-any-return]
    return output[0]  # type: ignore[no-any-return]
