"""Writes answers with vLLM, if it is installed: CUDA only, fastest for large models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from traitcli.config import SamplingConfig
from traitcli.errors import ModelError
from traitcli.generation.external_engine import Answer
from traitcli.generation.request import Request
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import ran_out_of_memory

_MEMORY_SHARE = 0.85
"""Share of the memory that the loaded model leaves free."""


def check_vllm(device: str) -> None:
    """Raise ModelError if vLLM is not installed or does not run on the device.

    It needs no loaded model, so that a run fails before it loads one.
    """
    if not find_spec("vllm"):
        raise ModelError(
            "vLLM is not installed",
            cause="extract.engine is vllm",
            fix="pip install 'traitcli[vllm]', or set extract.engine to traitcli",
        )
    if not device.startswith("cuda"):
        raise ModelError(
            f"vLLM does not run on {device}",
            cause="extract.engine is vllm, which needs a CUDA device",
            fix="set extract.engine to traitcli",
        )


class VllmWriter:
    """A second copy of a loaded model's weights, inside vLLM, on the same device.

    vLLM draws tokens with its own random numbers from each request's seed: the same seed gives
    another text than our loop. At temperature 0 the text is the same, rounding aside.
    """

    def __init__(self, loaded: LoadedModel, trust_remote_code: bool = False) -> None:
        self._loaded = loaded
        self._trust_remote_code = trust_remote_code

    def write(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Answer]:
        """See `Writer.write`."""
        outputs = self._engine.generate(
            [{"prompt_token_ids": list(request.ids)} for request in requests],
            self._params(requests, sampling),
            use_tqdm=False,
        )
        return [self._answer(output.outputs[0]) for output in outputs]

    @cached_property
    def _engine(self) -> Any:
        # Started by the first request: only then is it known how much memory is left.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
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
        free, total = torch.cuda.mem_get_info(loaded.device)
        return LLM(
            model=source,
            revision=None if Path(source).exists() else loaded.revision or None,
            trust_remote_code=self._trust_remote_code,
            dtype=str(loaded.model.dtype).removeprefix("torch."),
            max_model_len=-1,  # as long as its memory allows
            gpu_memory_utilization=_MEMORY_SHARE * free / total,
            device_ids=[loaded.device.index or 0],
            use_tqdm_on_load=False,
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
