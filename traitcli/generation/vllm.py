"""Writes answers with vLLM, if it is installed: CUDA only, fastest for large models."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from traitcli.config import ModelConfig, SamplingConfig
from traitcli.errors import ModelError
from traitcli.generation.request import Request
from traitcli.generation.writer import Answer
from traitcli.models.devices import pick_device
from traitcli.models.footprint import find_configuration
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import ran_out_of_memory

_MEMORY_SHARE = 0.85
"""Share of the memory that the loaded model leaves free."""
_MOST_NAMED = 16
"""An error names numbers of GPUs up to this one."""


def check_vllm(config: ModelConfig, trust_remote_code: bool = False) -> None:
    """Raise ModelError if vLLM is not installed, or cannot run the model on its devices.

    It needs no loaded model, so that a run fails before it loads one.
    """
    if not find_spec("vllm"):
        raise ModelError(
            "vLLM is not installed",
            cause="extract.engine is vllm",
            fix="pip install 'traitcli[vllm]', or set extract.engine to traitcli",
        )
    device = pick_device(config.device)
    if not device.startswith("cuda"):
        raise ModelError(
            f"vLLM does not run on {device}",
            cause="extract.engine is vllm, which needs a CUDA device",
            fix="set extract.engine to traitcli",
        )
    gpus = len(gpus_of(config))
    if gpus > 1:
        _check_heads(config.name, find_configuration(config, trust_remote_code), gpus)


def gpus_of(config: ModelConfig) -> list[int]:
    """Numbers of the GPUs that vLLM uses, among those that this process sees: the reader's."""
    import torch

    if config.device_map:
        # A worker of several GPUs sees no others.
        return list(range(torch.cuda.device_count()))
    _, _, index = config.device.partition(":")
    return [int(index or 0)]


def _check_heads(name: str, whole: Any, gpus: int) -> None:
    """Raise ModelError if vLLM cannot divide a model with this configuration among GPUs.

    Every GPU gets as many attention heads, and as many key-value heads or a copy of one: see
    `ModelConfig.verify_with_parallel_config` and `LlamaAttention` in vLLM's source.
    """
    text = whole.get_text_config()
    heads = getattr(text, "num_attention_heads", 0)
    kv_heads = getattr(text, "num_key_value_heads", None) or heads

    def divides(parts: int) -> bool:
        return heads % parts == 0 and (kv_heads % parts == 0 or parts % kv_heads == 0)

    if heads and not divides(gpus):
        *others, last = (str(parts) for parts in range(1, _MOST_NAMED + 1) if divides(parts))
        named = f"{', '.join(others)} or {last}" if others else last
        raise ModelError(
            f"vLLM cannot divide {name} among {gpus} GPUs",
            cause=f"it has {heads} attention heads and {kv_heads} key-value heads",
            fix=f"use {named} GPUs for each worker (--gpus-per-worker, or CUDA_VISIBLE_DEVICES "
            "with model.device_map), or set extract.engine to traitcli",
        )


class VllmWriter:
    """A second copy of a loaded model's weights, inside vLLM, on the same devices.

    vLLM draws tokens with its own random numbers from each request's seed: the same seed gives
    another text than our loop. At temperature 0 the text is the same, rounding aside.
    """

    beside: ClassVar[bool] = True

    def __init__(
        self, loaded: LoadedModel, gpus: Sequence[int], trust_remote_code: bool = False
    ) -> None:
        """Write with the weights of `loaded`, divided among `gpus`; see `gpus_of`."""
        self._loaded = loaded
        self._gpus = list(gpus)
        self._trust_remote_code = trust_remote_code
        self._llm: Any = None

    def start(self) -> None:
        """See `Writer.start`. Raises ModelError if vLLM cannot start."""
        if self._llm is None:
            self._llm = self._start_explained()

    def write(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_step: Callable[[int], None]
    ) -> list[Answer]:
        """See `Writer.write`. Tokens are counted when their answer is complete."""
        prompts = [{"prompt_token_ids": list(request.ids)} for request in requests]
        engine, outputs = self._llm.llm_engine, []
        ids = self._llm.enqueue(prompts, self._params(requests, sampling), use_tqdm=False)
        try:
            # `LLM.generate` does the same, without a way to stop it or to see how far it is.
            while engine.has_unfinished_requests():
                finished = [output for output in engine.step() if output.finished]
                outputs += finished
                on_step(sum(len(self._answer(output.outputs[0])[0]) for output in finished))
        except BaseException:
            # What is left behind would come out of the next call.
            engine.abort_request(ids, internal=True)
            raise
        # vLLM numbers requests in their order, and ends them in any.
        outputs.sort(key=lambda output: int(output.request_id))
        return [self._answer(output.outputs[0]) for output in outputs]

    def _start_explained(self) -> Any:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # Not in this process, where the model reads meanwhile.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
        try:
            return self._start()
        except Exception as error:
            if ran_out_of_memory(error):
                raise
            cause, *_ = str(error).splitlines() or [""]
            raise ModelError(
                "vLLM cannot start",
                cause=f"{type(error).__name__}: {cause}",
                fix="see logs/ in the run folder, or set extract.engine to traitcli",
            ) from error

    def _start(self) -> Any:
        import torch
        from vllm import LLM

        loaded, source = self._loaded, str(self._loaded.model.name_or_path)
        memory = [torch.cuda.mem_get_info(torch.device("cuda", gpu)) for gpu in self._gpus]
        devices: dict[str, Any] = {"device_ids": self._gpus}
        if len(self._gpus) > 1:
            # All that this process sees. Of its own accord vLLM might use Ray in a Ray actor.
            devices = {
                "tensor_parallel_size": len(self._gpus),
                "distributed_executor_backend": "mp",
            }
        return LLM(
            model=source,
            revision=None if Path(source).exists() else loaded.revision or None,
            trust_remote_code=self._trust_remote_code,
            dtype=str(loaded.model.dtype).removeprefix("torch."),
            max_model_len=-1,  # as long as its memory allows
            # One share for all GPUs: the fullest one decides.
            gpu_memory_utilization=_MEMORY_SHARE * min(free / total for free, total in memory),
            use_tqdm_on_load=False,
            **devices,
        )

    def _params(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Any]:
        """SamplingParams of each request."""
        from vllm import SamplingParams

        common = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": sampling.max_new_tokens,
            # All tokens that end an answer are in the list, those of the tokenizer too.
            "ignore_eos": True,
            "stop_token_ids": sorted(self._loaded.stop_ids),
            "detokenize": False,
        }
        return [SamplingParams(seed=request.seed, **common) for request in requests]

    def _answer(self, output: Any) -> Answer:
        ids = tuple(output.token_ids)
        # vLLM returns the stop token as the last one; it is not part of the answer.
        if output.finish_reason == "stop":
            return ids[:-1], "stop"
        return ids, "length"
