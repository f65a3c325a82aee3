"""Lets a model in half precision compute in float32 for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch.nn import Parameter

if TYPE_CHECKING:
    from torch import Tensor


def can_compute_in_float32(model: Any) -> bool:
    """Whether all weights are in half precision, or wider, and on a device.

    Quantized weights have kernels for one dtype, and accelerate loads offloaded ones itself.
    """
    return all(
        weight.is_floating_point() and weight.itemsize >= 2 and not weight.is_meta
        for weight in model.parameters()
    )


@contextmanager
def computing_in_float32(model: Any) -> Iterator[None]:
    """Inside, hidden states are float32; logits stay in half precision.

    Each module's own weights are float32 while it runs, so only one module's copy is in memory.
    The embeddings and the output layer, which are the largest, are not copied at all.
    """
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    with ExitStack() as stack:

        def add(hook: Any) -> None:
            stack.callback(hook.remove)

        for module in model.modules():
            own = _half_tensors(module)
            if module is embeddings:
                add(module.register_forward_hook(lambda module, args, output: output.float()))
            elif module is head:
                add(module.register_forward_pre_hook(_round_input))
            elif any(own.values()):
                add(module.register_forward_pre_hook(_Widening(own).begin))
                add(module.register_forward_hook(_Widening(own).end, always_call=True))
        yield


def _half_tensors(module: Any) -> dict[str, dict[str, Tensor]]:
    """Names and values of a module's own parameters and buffers in half precision."""
    kinds = {"_parameters": module._parameters, "_buffers": module._buffers}
    return {kind: _half(tensors) for kind, tensors in kinds.items()}


def _half(tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in tensors.items()
        if tensor is not None and tensor.is_floating_point() and tensor.itemsize == 2
    }


class _Widening:
    """The hooks of one module, whose own tensors are float32 while it runs."""

    def __init__(self, own: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._own = own

    def begin(self, module: Any, args: Any) -> None:
        for name, weight in self._own["_parameters"].items():
            module._parameters[name] = Parameter(weight.float(), requires_grad=False)
        for name, buffer in self._own["_buffers"].items():
            module._buffers[name] = buffer.float()

    def end(self, module: Any, args: Any, output: Any) -> None:
        module._parameters |= self._own["_parameters"]
        module._buffers |= self._own["_buffers"]


def _round_input(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    hidden, *rest = args
    return (hidden.to(module.weight.dtype), *rest)
