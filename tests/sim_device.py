"""A pretend accelerator: its tensors hold CPU data and say that they are on `sim:0` or `sim:1`.

Like CUDA it refuses to mix devices. It logs what costs time on a real device: launches, copies to
and from it, and waits until it is done, each with the line of traitcli that causes it.

    with simulated() as log:
        model = on_sim(loaded)  # see sim_models.py
        ...
        log.take().waits
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import traitcli

Kind = Literal["launch", "upload", "download", "wait"]
aten = torch.ops.aten

CPU = torch.device("cpu")
PACKAGE = Path(traitcli.__file__).parent
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


@dataclass(frozen=True, slots=True)
class Event:
    """Something that costs time on an accelerator.

    kind  launch: a kernel, a copy between devices included
          upload, download: a copy to the device or from it
          wait: another reason to wait until the device is done
    line  of traitcli, as "generation/decode.py:241"
    code  the innermost code outside torch, if it is not traitcli's own
    """

    kind: Kind
    operator: str
    line: str
    code: str


@dataclass(slots=True)
class Log:
    """What has happened since the last look at it."""

    events: list[Event] = field(default_factory=list)

    def take(self) -> Log:
        """Return the events so far, and forget them."""
        taken, self.events = Log(self.events), []
        return taken

    def count(self, kind: Kind) -> int:
        return sum(event.kind == kind for event in self.events)

    @property
    def waits(self) -> int:
        """How often the host waits until the device is done; each copy back is such a wait."""
        return self.count("download") + self.count("wait")

    def table(self, *kinds: Kind) -> str:
        """Number, kind, operator and line of the events, for the message of a failed test."""
        chosen = Counter(event for event in self.events if event.kind in kinds or not kinds)
        rows = [
            f"{number:5} {event.kind:8} {event.operator:32} {event.line} {event.code}"
            for event, number in chosen.most_common()
        ]
        return "\n" + "\n".join(rows)


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

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        wanted = kwargs.get("device")
        is_made_here = wanted is not None and torch.device(wanted).type == "sim"
        if not is_made_here and not any(
            isinstance(one, SimTensor) for one in _tensors(args, kwargs)
        ):
            return func(*args, **kwargs)
        if not _name(func).startswith(tuple(ONE_KERNEL)) and _is_composite(func):
            # Inference mode hands over whole what is composed of other operators.
            with self:
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        if func in (aten.copy_.default, aten._to_copy.default):
            return self._copy(func, args, kwargs)
        return self._compute(func, args, kwargs)

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
        self._note(kind, func)

    def _compute(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        device = self._device_of(func, args, kwargs)
        self._log_waits(func, args)
        options = {key: _each(_on_cpu, value) for key, value in kwargs.items()}
        if options.get("device") is not None:
            options["device"] = CPU
        found = func(*(_each(_on_cpu, value) for value in args), **options)
        if func is aten._local_scalar_dense.default:
            return found
        if _name(func) not in NO_KERNEL and not _is_view(func):
            self._note("launch", func)

        changed = _changed_arguments(func, args, kwargs)
        if changed and not isinstance(found, tuple | list):
            return changed[0]
        # Inference mode allows a view of an ordinary tensor, if the view is an ordinary one too.
        is_view_of_ordinary = _is_view(func) and not args[0].is_inference()
        with torch.inference_mode(torch.is_inference_mode_enabled() and not is_view_of_ordinary):
            return _each(
                lambda one: SimTensor(one, device) if isinstance(one, torch.Tensor) else one, found
            )

    def _device_of(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.device:
        """The device that an operator runs on; raises RuntimeError as CUDA does."""
        if kwargs.get("device") is not None:
            return _numbered(kwargs["device"])
        tensors = _tensors(args, kwargs)
        if _name(func) in INDEXING:
            # CPU indices are allowed, and copied to the device.
            indices = [one for one in args[1] if one is not None]
            tensors = [one for one in tensors if all(one is not index for index in indices)]
            on_cpu = [index for index in indices if index.device == CPU]
            tensors += [index for index in indices if index.device != CPU]
            for _ in on_cpu:
                self._note("upload", func)
        # A single number may come from the CPU.
        devices = {one.device for one in tensors if one.device != CPU or one.dim()}
        if len(devices) > 1:
            names = " and ".join(sorted(map(str, devices)))
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found {names} in {func}"
            )
        return devices.pop()

    def _log_waits(self, func: Any, args: Sequence[Any]) -> None:
        if func is aten._local_scalar_dense.default:
            self._note("download", func)
        has_mask = _name(func) in INDEXING and any(
            one is not None and one.dtype == torch.bool and one.device != CPU for one in args[1]
        )
        # `repeat_interleave` by a number knows its size.
        if has_mask or (_name(func) in WAITING and func is not aten.repeat_interleave.self_int):
            self._note("wait", func)

    def _note(self, kind: Kind, func: Any) -> None:
        line, code = _where()
        self._log.events.append(Event(kind, _name(func), line, code))


class _SimFunctions(TorchFunctionMode):
    """Makes tensors from numbers on the pretend device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        wanted = kwargs.get("device")
        if func in MAKES_FROM_NUMBERS and wanted and torch.device(wanted).type == "sim":
            return func(*args, **{**kwargs, "device": CPU}).to(wanted)
        if func in INDEXED_BY_LISTS and isinstance(args[0], SimTensor):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            chosen = tuple(torch.tensor(one) if isinstance(one, list) else one for one in index)
            return func(args[0], chosen, *args[2:])
        return func(*args, **kwargs)


@contextmanager
def simulated() -> Iterator[Log]:
    """Let `sim:0` and `sim:1` exist, and log what happens there."""
    _name_backend()
    log = Log()
    with _SimFunctions(), _SimMode(log):
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


def _numbered(device: Any) -> torch.device:
    device = torch.device(device)
    return torch.device("sim", 0) if device.type == "sim" and device.index is None else device


@cache
def _name(func: Any) -> str:
    return func._schema.name.removeprefix("aten::")


@cache
def _is_composite(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


@cache
def _is_view(func: Any) -> bool:
    aliases = [returned.alias_info for returned in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _changed_arguments(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[torch.Tensor]:
    """The arguments that an operator writes to, `out` before others."""
    written = [
        (argument.name, position)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    named = [kwargs[name] for name, _ in written if name in kwargs]
    return named + [args[position] for _, position in written if position < len(args)]


def _where() -> tuple[str, str]:
    """The line of traitcli that runs, and the innermost code outside torch if it is another's."""
    frame, code = sys._getframe(2), ""
    while frame:
        is_ours, name = _owner(frame.f_code.co_filename)
        if is_ours:
            return f"{name}:{frame.f_lineno}", code
        if name and not code:
            code = f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "", code


@cache
def _owner(file: str) -> tuple[bool, str]:
    """Whether a file is traitcli's, and its name; code of torch and of this file has none."""
    path = Path(file)
    if path.is_relative_to(PACKAGE):
        return True, str(path.relative_to(PACKAGE))
    if "torch" in path.parts or path == Path(__file__):
        return False, ""
    return False, "/".join(path.parts[-3:])
