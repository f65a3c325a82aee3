"""Keys of requests that would change the answer, and that this server cannot honour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A key that is refused unless its value changes nothing.

    reason   what is missing here
    neutral  values that change nothing, besides null
    """

    reason: str
    neutral: tuple[Any, ...] = ()


TOOLS = "the model cannot call tools here"
_FORM = "answers are not constrained to a form"
_PENALTY = "tokens are not weighted by what was written before"
_TEXT = "it reads and writes text only"
_ONE_WAY = "tokens are sampled one after another"

UNSUPPORTED = {
    "tools": Unsupported(TOOLS, ([],)),
    "tool_choice": Unsupported(TOOLS, ("none", "auto")),
    "functions": Unsupported(TOOLS, ([],)),
    "function_call": Unsupported(TOOLS, ("none", "auto")),
    "web_search_options": Unsupported(TOOLS),
    "response_format": Unsupported(_FORM, ({"type": "text"},)),
    "guided_json": Unsupported(_FORM),
    "guided_regex": Unsupported(_FORM),
    "guided_choice": Unsupported(_FORM),
    "guided_grammar": Unsupported(_FORM),
    "structured_outputs": Unsupported(_FORM),
    "grammar": Unsupported(_FORM, ("",)),
    "json_schema": Unsupported(_FORM),
    "logit_bias": Unsupported("logits are not changed", ({},)),
    "frequency_penalty": Unsupported(_PENALTY, (0,)),
    "presence_penalty": Unsupported(_PENALTY, (0,)),
    "repetition_penalty": Unsupported(_PENALTY, (1,)),
    "repeat_penalty": Unsupported(_PENALTY, (1,)),
    "min_p": Unsupported("use top_p or top_k", (0,)),
    "typical_p": Unsupported("use top_p or top_k", (1,)),
    "mirostat": Unsupported("use top_p or top_k", (0,)),
    "min_tokens": Unsupported("an answer may end at once", (0,)),
    "ignore_eos": Unsupported("an answer ends where the model ends it", (False,)),
    "use_beam_search": Unsupported(_ONE_WAY, (False,)),
    "best_of": Unsupported(_ONE_WAY, (1,)),
    "modalities": Unsupported(_TEXT, (["text"],)),
    "audio": Unsupported(_TEXT),
    "prediction": Unsupported(_ONE_WAY),
    "reasoning_effort": Unsupported("set model.template_options in the config", ("none",)),
    "verbosity": Unsupported("ask for it in a message", ("medium",)),
    "chat_template": Unsupported("the model's own chat template is used"),
    "chat_template_kwargs": Unsupported("set model.template_options in the config", ({},)),
    "continue_final_message": Unsupported("use /v1/completions", (False,)),
    "echo": Unsupported("the prompt is not repeated", (False,)),
    "suffix": Unsupported("text is only continued at its end", ("",)),
    "prompt_logprobs": Unsupported("only the answer has log-probabilities"),
}


def is_neutral(key: str, value: object) -> bool:
    """Whether a value of an unsupported key changes nothing."""
    return value is None or value in UNSUPPORTED[key].neutral
