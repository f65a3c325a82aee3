"""Stands in for the part of vLLM that traitcli uses: same names, same order of events.

Written after `vllm/entrypoints/llm.py`, `offline_utils.py`, `engine/arg_utils.py` and
`v1/engine/llm_engine.py`. A name that vLLM does not know is a TypeError, as there.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import traitcli.generation.vllm as vllm_module
from traitcli.config import SamplingConfig
from traitcli.generation.request import Request
from traitcli.generation.skip_thinking import OwnWriter
from traitcli.models.batch_size import BatchSize
from traitcli.models.loaded import LoadedModel

_FINISHED_PER_STEP = 3


@dataclass
class SamplingParams:
    """The arguments that traitcli passes; all exist in vLLM."""

    seed: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = 16
    ignore_eos: bool = False
    stop_token_ids: list[int] | None = None
    detokenize: bool = True


class VllmModule(ModuleType):
    """The module `vllm`; it notes what it is called with.

    options  arguments of the last `LLM`
    params   sampling parameters of the last round
    started  how many `LLM` there were
    aborted  requests that were aborted before they were complete
    """

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__("vllm")
        self.options: dict[str, Any] = {}
        self.params: Sequence[SamplingParams] = ()
        self.started = 0
        self.aborted: list[str] = []
        # A second copy of the weights, as in vLLM: it writes while the first one reads.
        self.loaded = replace(loaded, model=copy.deepcopy(loaded.model))
        self.SamplingParams = SamplingParams
        module = self

        class LLM:
            def __init__(
                self,
                model: str,
                *,
                revision: str | None = None,
                trust_remote_code: bool = False,
                dtype: str = "auto",
                max_model_len: int | None = None,
                gpu_memory_utilization: float = 0.92,
                tensor_parallel_size: int = 1,
                distributed_executor_backend: str | None = None,
                device_ids: list[int] | None = None,
                use_tqdm_on_load: bool = True,
            ) -> None:
                module.options = {name: it for name, it in locals().items() if name != "self"}
                module.started += 1
                self._count = 0
                self.llm_engine = _Engine(module)

            def enqueue(self, prompts, sampling_params=None, *, use_tqdm=True) -> list[str]:
                module.params = sampling_params
                ids = []
                for prompt, params in zip(prompts, sampling_params, strict=True):
                    ids.append(self.llm_engine.add(str(self._count), prompt, params))
                    self._count += 1
                return ids

        self.LLM = LLM


def install(
    monkeypatch: pytest.MonkeyPatch, loaded: LoadedModel, memory: Sequence[tuple[float, float]]
) -> VllmModule:
    """Install the stand-in, and pretend that there are GPUs with so much memory, free and whole."""
    module = VllmModule(loaded)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(vllm_module, "find_spec", lambda name: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(memory))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: memory[device.index])
    return module


class _Engine:
    """`LLMEngine`: answers come a few at a time, and not in the order of their requests."""

    def __init__(self, module: VllmModule) -> None:
        self._module = module
        self._waiting: dict[str, tuple[Request, SamplingParams]] = {}
        self._written: dict[str, Any] = {}

    def add(self, number: str, prompt: dict[str, list[int]], params: SamplingParams) -> str:
        request = Request(tuple(prompt["prompt_token_ids"]), params.seed or 0)
        internal = f"{number}-internal"
        self._waiting[internal] = request, params
        return internal

    def has_unfinished_requests(self) -> bool:
        return bool(self._waiting or self._written)

    def step(self) -> list[Any]:
        running = {name: _output(name) for name in self._waiting}
        if self._waiting:
            self._write()
            return list(running.values())
        return [self._written.pop(name) for name in list(self._written)[-_FINISHED_PER_STEP:]]

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        assert internal, "`enqueue` returns internal names"
        for name in request_ids:
            if name in self._waiting or name in self._written:
                self._module.aborted.append(name)
            self._waiting.pop(name, None)
            self._written.pop(name, None)

    def _write(self) -> None:
        asked, all_params = zip(*self._waiting.values(), strict=True)
        params = all_params[0]
        sampling = SamplingConfig(
            temperature=params.temperature, max_new_tokens=params.max_tokens, top_p=params.top_p
        )
        stops = params.stop_token_ids
        own = replace(self._module.loaded, stop_ids=frozenset(stops))
        written = OwnWriter(own, BatchSize(64)).write(asked, sampling, lambda tokens: None)
        for name, (ids, reason) in zip(self._waiting, written, strict=True):
            # vLLM's last token is the one that ended the answer.
            tokens = [*ids, stops[0]] if reason == "stop" else list(ids)
            self._written[name] = _output(name, tokens, reason)
        self._waiting.clear()


def _output(name: str, tokens: Sequence[int] = (), reason: str | None = None) -> Any:
    """A `RequestOutput`; it has the name that the caller chose, not the internal one."""
    answer = SimpleNamespace(token_ids=list(tokens), finish_reason=reason)
    return SimpleNamespace(
        request_id=name.removesuffix("-internal"), finished=reason is not None, outputs=[answer]
    )
