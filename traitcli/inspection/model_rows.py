"""Gathers what `inspect model` shows: what a model is, and whether it is read correctly."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from traitcli.models.chat_format import template_facts
from traitcli.models.loaded import LoadedModel, PathCheck, SelfTest
from traitcli.models.self_test import run_self_test
from traitcli.models.thinking import opens_thinking

Row = dict[str, Any]


def model_row(loaded: LoadedModel, model_id: str) -> Row:
    """The facts about a loaded model, and under `checks` a row for each way of reading it."""
    test = loaded.self_test or run_self_test(loaded, thorough=True)
    config = loaded.model.config.get_text_config()
    return {
        "model": model_id,
        "name": loaded.name,
        "revision": loaded.revision,
        "family": config.model_type,
        "class": type(loaded.model).__name__,
        "blocks": loaded.blocks,
        "layers": loaded.layer_count,
        "hidden_size": loaded.hidden_size,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "device": str(loaded.device),
        "context": loaded.context,
        "persona_in": loaded.persona_in,
        "template": _template_row(loaded),
        "reads": _way(test),
        "problem": test.problem,
        "checks": [_check_row(check) for check in test.checks],
    }


def _template_row(loaded: LoadedModel) -> Row | None:
    """The facts about the chat template; None for a model without one."""
    if not loaded.tokenizer.chat_template:
        return None
    return asdict(template_facts(loaded.tokenizer, loaded.chat, opens_thinking))


def _way(test: SelfTest) -> str | None:
    """The way of reading that is used; None if all are wrong."""
    if test.problem:
        return None
    if test.packs:
        return "packed"
    return "padded" if test.pads else "alone"


def _check_row(check: PathCheck) -> Row:
    return {
        "path": check.path,
        "error": check.error,
        "layer": check.layer,
        "verdict": "differs" if check.problem else "agrees",
        "problem": check.problem,
    }
