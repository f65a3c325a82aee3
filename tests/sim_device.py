"""A pretend accelerator: its tensors hold CPU data and say that they are on `sim:0` or `sim:1`.

Like CUDA it refuses to mix devices. It logs what costs time on a real device: launches, copies to
and from it, and waits until it is done.

    with simulated() as log:
        model = on_sim(loaded)  # see sim_models.py
        ...
        log.take().waits
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.sim_log import Event, Kind, Log, running_line

aten = torch.ops.aten

CPU = torch.device("cpu")
MAKES_FROM_NUMBERS = (torch.tensor, torch.as_tensor)
"""They fill their tensor below the dispatcher, so they are caught above it."""
INDEXED_BY_LISTS = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
"""The same for their lists of indices."""
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
WAITING = {
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
    "_unique",
    "_unique2",
}
"""The size or the value of their result is in the data, so the host waits for it."""
ONE_KERNEL = {
    "einsum",
    "embedding",
    "linear",
    "matmul",
    "rms_norm",
    "scaled_dot_product_attention",
    "softmax",
}
"""Composed of other operators on a CPU, one kernel or nearly so on an accelerator."""
NO_KERNEL = {
    "_reshape_alias",
    "_unsafe_view",
    "alias",
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
}


class SimTensor(torch.Tensor):
    """A tensor that says it is on a pretend device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, data: torch.Tensor, device: torch.device) -> SimTensor:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            data.size(),
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            device=device,
            requires_grad=False,
        )

    def __init__(self, data: torch.Tensor, device: torch.device) -> None:
        self.data_on_cpu = data

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} on a pretend device outside simulated()")

    def __repr__(self, **options: Any) -> str:
        return f"SimTensor({self.device}, {tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> SimTensor:
        return SimTensor(self.data_on_cpu.clone(), self.device)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **options: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy")


class _SimMode(TorchDispatchMode):
    """Runs operators on the CPU data of pretend tensors, and logs them."""

    def __init__(self, log: Log | None) -> None:
        super().__init__()
        self._log = log

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch hides this mode from its compiler, which takes longer than an operator."""
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if SimTensor not in types:
            wanted = kwargs.get("device")
            if wanted is None or torch.device(wanted).type != "sim":
                return func(*args, **kwargs)
        operator = _operator(func)
        if operator.is_composed:
            # Inference mode hands over whole what is composed of other operators.
            with self:
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        if operator.is_copy:
            return self._copy(func, args, kwargs)
        return self._compute(operator, args, kwargs)

    def _copy(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
        options = {key: value for key, value in kwargs.items() if key != "device"}
        if func is aten.copy_.default:
            target, source = args[:2]
            self._log_copy(func, source.device, target.device)
            func(_on_cpu(target), _on_cpu(source))
            return target
        source = args[0]
        device = _numbered(kwargs.get("device") or source.device)
        self._log_copy(func, source.device, device)
        options.pop("non_blocking", None)
        data = func(_on_cpu(source), **options)
        return data if device == CPU else SimTensor(data, device)

    def _log_copy(self, func: Any, source: torch.device, target: torch.device) -> None:
        kind: Kind = "launch"
        if source == CPU:
            kind = "upload"
        elif target == CPU:
            kind = "download"
        self._note(kind, _operator(func))

    def _compute(self, operator: _Operator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        device = self._device_of(operator, args, kwargs)
        self._log_waits(operator, args)
        options = {key: _each(_on_cpu, value) for key, value in kwargs.items()}
        if options.get("device") is not None:
            options["device"] = CPU
        found = operator.run(*[_each(_on_cpu, value) for value in args], **options)
        if operator.run is aten._local_scalar_dense.default:
            return found
        if operator.is_kernel:
            self._note("launch", operator)

        if operator.written and not isinstance(found, tuple | list):
            changed = operator.changed(args, kwargs)
            if changed is not None:
                return changed
        # Inference mode allows a view of an ordinary tensor, if the view is an ordinary one too.
        if operator.is_view and torch.is_inference_mode_enabled() and not args[0].is_inference():
            with torch.inference_mode(False):
                return _on_sim(found, device)
        return _on_sim(found, device)

    def _device_of(
        self, operator: _Operator, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> torch.device:
        """The device that an operator runs on; raises RuntimeError as CUDA does."""
        if kwargs.get("device") is not None:
            return _numbered(kwargs["device"])
        tensors = _tensors(args, kwargs)
        if operator.is_indexing:
            # CPU indices are allowed, and copied to the device.
            indices = [one for one in args[1] if one is not None]
            tensors = [one for one in tensors if all(one is not index for index in indices)]
            on_cpu = [index for index in indices if index.device == CPU]
            tensors += [index for index in indices if index.device != CPU]
            for _ in on_cpu:
                self._note("upload", operator)
        # A single number may come from the CPU.
        devices = {one.device for one in tensors if isinstance(one, SimTensor) or one.dim()}
        if len(devices) > 1:
            names = " and ".join(sorted(map(str, devices)))
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found {names} in "
                f"{operator.run}"
            )
        return devices.pop()

    def _log_waits(self, operator: _Operator, args: Sequence[Any]) -> None:
        if operator.run is aten._local_scalar_dense.default:
            self._note("download", operator)
        has_mask = operator.is_indexing and any(
            one is not None and one.dtype == torch.bool and one.device != CPU for one in args[1]
        )
        if has_mask or operator.waits:
            self._note("wait", operator)

    def _note(self, kind: Kind, operator: _Operator) -> None:
        if self._log is not None:
            line, code = running_line()
            self._log.events.append(Event(kind, operator.name, line, code))


class _SimFunctions(TorchFunctionMode):
    """Makes tensors from numbers on the pretend device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in MAKES_FROM_NUMBERS:
            wanted = kwargs.get("device")
            if wanted and torch.device(wanted).type == "sim":
                return func(*args, **{**kwargs, "device": CPU}).to(wanted)
        elif func in INDEXED_BY_LISTS and isinstance(args[0], SimTensor):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            chosen = tuple(torch.tensor(one) if isinstance(one, list) else one for one in index)
            return func(args[0], chosen, *args[2:])
        return func(*args, **kwargs)


@contextmanager
def simulated(logs: bool = True) -> Iterator[Log]:
    """Let `sim:0` and `sim:1` exist, and log what happens there.

    Without `logs` the log stays empty: to look for the line of each event takes a while.
    """
    _name_backend()
    log = Log()
    with _SimFunctions(), _SimMode(log if logs else None):
        yield log


class _DeviceModule:
    """Takes the place of `torch.cuda`.

    It is never available, so that other tests of this process go on without an accelerator.
    """

    def is_available(self) -> bool:
        return False

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass


class _DeviceGuard(torch._C._acc.DeviceGuard):
    def type_(self) -> Any:
        return torch._C._autograd.DeviceType.PrivateUse1


@cache
def _name_backend() -> None:
    torch.utils.rename_privateuse1_backend("sim")
    torch._register_device_module("sim", _DeviceModule())
    torch._C._acc.register_python_privateuseone_device_guard(_DeviceGuard())


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors among the arguments of an operator, alone or in lists."""
    # By hand, because torch's own functions for trees take most of a test's time.
    found = []
    for value in (*args, *kwargs.values()):
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, torch.Tensor):
                found.append(one)
    return found


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """Change a value, or each one in a list."""
    if isinstance(value, tuple | list):
        return type(value)(map(change, value))
    return change(value)


def _on_cpu(value: Any) -> Any:
    return value.data_on_cpu if isinstance(value, SimTensor) else value


def _on_sim(found: Any, device: torch.device) -> Any:
    """The result of an operator, with its tensors on a pretend device."""
    if isinstance(found, torch.Tensor):
        return SimTensor(found, device)
    if isinstance(found, tuple | list):
        return type(found)(_on_sim(one, device) for one in found)
    return found


def _numbered(device: Any) -> torch.device:
    device = torch.device(device)
    return torch.device("sim", 0) if device.type == "sim" and device.index is None else device


@dataclass(frozen=True, slots=True)
class _Operator:
    """What an operator does, found once: a pretend device runs thousands in a second.

    written  name and position of the arguments that it writes to
    """

    run: Any
    name: str
    is_composed: bool
    is_copy: bool
    is_view: bool
    is_kernel: bool
    is_indexing: bool
    waits: bool
    written: tuple[tuple[str, int], ...]

    def changed(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The argument that it writes to, `out` before others; None if it is not given."""
        for name, _ in self.written:
            if name in kwargs:
                return kwargs[name]
        return next((args[at] for _, at in self.written if at < len(args)), None)


@cache
def _operator(func: Any) -> _Operator:
    name = func._schema.name.removeprefix("aten::")
    aliases = [returned.alias_info for returned in func._schema.returns]
    is_view = any(alias is not None and not alias.is_write for alias in aliases)
    is_composite = torch._C._dispatch_has_kernel_for_dispatch_key(
        func.name(), "CompositeImplicitAutograd"
    )
    return _Operator(
        run=func,
        name=name,
        is_composed=is_composite and not name.startswith(tuple(ONE_KERNEL)),
        is_copy=func in (aten.copy_.default, aten._to_copy.default),
        is_view=is_view,
        is_kernel=name not in NO_KERNEL and not is_view,
        is_indexing=name in INDEXING,
        # `repeat_interleave` by a number knows its size.
        waits=name in WAITING and func is not aten.repeat_interleave.self_int,
        written=tuple(
            (argument.name, position)
            for position, argument in enumerate(func._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ),
    )
