"""Uses a model that belongs to the user, and leaves it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traitcli.models.loaded import LoadedModel

_HOOKED = "_output_capturing_hooks_installed"
"""Where transformers notes that its hooks, which collect hidden states, are on a model."""


def using(loaded: LoadedModel) -> AbstractContextManager[None]:
    """Inside, the model may be read and written with; one of the user is restored on exit."""
    return borrowed(loaded.model) if loaded.is_borrowed else nullcontext()


@contextmanager
def borrowed(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode, and restore everything that reading it changes.

    That is: training mode, module by module; the attention implementation; buffers that a forward
    pass replaces; and the hooks that transformers leaves on a model. Weights never change.
    """
    modules = list(model.modules())
    training = [module for module in modules if module.training]
    attention = [(config, config._attn_implementation) for config in _configs(modules)]
    buffers = [(module, dict(module._buffers)) for module in modules if module._buffers]
    unhooked = [module for module in modules if not getattr(module, _HOOKED, False)]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for config, name in attention:
            # The private name, because the public one also changes what is nested in the config.
            config._attn_implementation_internal = name
        for module, before in buffers:
            # A tensor made in inference mode cannot be trained with, so the old one comes back.
            module._buffers.update(before)
        if any(hasattr(module, _HOOKED) for module in unhooked):
            _unhook(modules)


def _configs(modules: list[Any]) -> Iterator[Any]:
    """Every config of a model that chooses an attention, also those without a module."""
    waiting = [config for module in modules if (config := getattr(module, "config", None))]
    seen: set[int] = set()
    while waiting:
        config = waiting.pop()
        if id(config) in seen or not hasattr(config, "_attn_implementation"):
            continue
        seen.add(id(config))
        yield config
        waiting += [getattr(config, key, None) for key in config.sub_configs]


def _unhook(modules: list[Any]) -> None:
    """Remove the hooks with which transformers collects hidden states; it sets them when needed."""
    for module in modules:
        module.__dict__.pop(_HOOKED, None)
        for key, hook in list(module._forward_hooks.items()):
            if getattr(hook, "__name__", "") == "output_capturing_hook":
                del module._forward_hooks[key]
