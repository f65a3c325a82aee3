"""Reads the bodies of requests in OpenAI's form."""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Literal, TypeVar

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from traitcli.config import SamplingConfig
from traitcli.faults import list_faults
from traitcli.serving.api_errors import ApiError
from traitcli.serving.served import ServedRequest
from traitcli.serving.unsupported_keys import TOOLS, UNSUPPORTED, is_neutral

MOST_ANSWERS = 128
"""Answers to one HTTP request, at most; OpenAI's limit of `n`."""
_MOST_TEXTS = 16
"""Of `stop`, `steer` and `stop_on`: each costs time at every token, also of other requests."""
_SMALLEST_TOP_P = 1e-6
"""Instead of 0, which OpenAI takes as "the likeliest token"."""
_SEEDS = 2**63
_CLOSE = 0.85
"""How alike an unknown key and a known one are, when the first is a slip of the pen."""

Count = Annotated[int, Field(ge=1, le=10**9)]
Text = Annotated[str, Field(max_length=10**7)]
Texts = str | Annotated[list[str], Field(max_length=_MOST_TEXTS)]


class _Part(BaseModel):
    """A model of JSON: types are not converted, and errors do not show what the client sent."""

    model_config = ConfigDict(
        strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class TraitOptions(_Part):
    """The key `traitcli` of a request; unknown keys in it are an error."""

    model_config = ConfigDict(extra="forbid")

    traits: list[str] | None = None
    steer: Texts | None = None
    stop_on: Texts | None = None
    detail: Literal["tokens", "summary"] | None = None


class StreamOptions(_Part):
    """The key `stream_options`."""

    include_usage: bool | None = None


class TextPart(_Part):
    """A part of a message's content."""

    type: Literal["text"]
    text: Text


class ChatMessage(_Part):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    @model_validator(mode="before")
    @classmethod
    def _allow_no_text(cls, sent: object) -> object:
        """Read an answer of the history without content, as agents send it, as an empty one."""
        if isinstance(sent, dict) and sent.get("role") == "assistant":
            return sent | {"content": ""} if sent.get("content") is None else sent
        return sent


class _Body(_Part):
    """What both kinds of completions have."""

    model: str | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=10**9)] | None = None
    seed: Annotated[int, Field(ge=0, lt=_SEEDS)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    stop: Texts | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    traitcli: TraitOptions | None = None


class ChatBody(_Body):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class TextBody(_Body):
    """The body of POST /v1/completions."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_ANSWERS)]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: int | None = None


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request that was read.

    answers        what is asked of the model; their numbers are the indices of the choices
    per_prompt     how many answers in a row have the same prompt
    is_chat        whether it came to /v1/chat/completions
    is_stream      whether it is answered token by token
    includes_usage whether a stream ends with a chunk of the usage
    has_tokens     whether the scores of each token are given, or only their summary
    """

    answers: tuple[ServedRequest, ...]
    per_prompt: int
    is_chat: bool
    is_stream: bool
    includes_usage: bool
    has_tokens: bool


Body = TypeVar("Body", ChatBody, TextBody)


def read_chat(data: bytes, model: str, defaults: SamplingConfig, client: str) -> ApiRequest:
    """Read the body of POST /v1/chat/completions.

    Args:
        data: The body.
        model: The name of the model that is served; a request for another one is an error.
        defaults: The sampling of a request that does not say; its length limit is lowered to what
            fits then.
        client: Who asks; clients take turns in the queue.

    Returns:
        The request.

    Raises:
        ApiError: The body is not valid, or asks for what this server cannot do.
    """
    body = _parse(data, ChatBody, model)
    _check_last(body.messages)
    if body.top_logprobs is not None and not body.logprobs:
        raise _invalid("top_logprobs", "it needs logprobs: true")
    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    if body.max_tokens not in (None, most):
        raise _invalid("max_tokens", "it differs from max_completion_tokens; send one of them")
    messages = tuple(map(_message, body.messages))
    log_probs = (body.top_logprobs or 0) if body.logprobs else None
    options = _Options(body, most, log_probs, defaults, client)
    return _request(body, [messages], options, is_chat=True)


def read_completion(data: bytes, model: str, defaults: SamplingConfig, client: str) -> ApiRequest:
    """Read the body of POST /v1/completions; see `read_chat`.

    With several prompts, the choices of the first come first.
    """
    body = _parse(data, TextBody, model)
    if body.best_of not in (None, body.n or 1):
        raise _invalid("best_of", "only the value of n is supported")
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if len(prompts) * (body.n or 1) > MOST_ANSWERS:
        raise _invalid("prompt", f"prompts times n is above {MOST_ANSWERS}")
    options = _Options(body, body.max_tokens, body.logprobs, defaults, client)
    return _request(body, prompts, options, is_chat=False)


# Reading


def _parse(data: bytes, kind: type[Body], model: str) -> Body:
    """The body as an object of that kind."""
    try:
        tree = pydantic_core.from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"the body is not valid JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ApiError(HTTPStatus.BAD_REQUEST, "the body is not a JSON object")
    for key, value in tree.items():
        _check_key(key, value, kind)
    if kind is ChatBody:
        _check_messages(tree.get("messages"))
    try:
        body = kind.model_validate(tree)
    except ValidationError as error:
        [(param, fault), *_] = list_faults(error, kind, {})
        raise ApiError(HTTPStatus.BAD_REQUEST, _short(fault), param=_short(param)) from None
    if body.model not in (None, "", model):
        raise ApiError(
            HTTPStatus.NOT_FOUND,
            f"the model {_short(body.model)} does not exist; this server has {model}",
            param="model",
            code="model_not_found",
        )
    return body


def _check_key(key: str, value: object, kind: type[BaseModel]) -> None:
    """Refuse what cannot be done, and keys that are nearly those of OpenAI."""
    if key in kind.model_fields:
        return
    if key in UNSUPPORTED:
        if not is_neutral(key, value):
            raise _invalid(key, f"not supported: {UNSUPPORTED[key].reason}")
        return
    # A key of other servers changes nothing here; a slip of the pen would, without a word.
    near = difflib.get_close_matches(key[:40], kind.model_fields, 1, _CLOSE)
    if near:
        raise _invalid(_short(key), f"unknown key; did you mean {near[0]}?")


def _check_messages(messages: object) -> None:
    """Refuse all but text. The error does not repeat it, because an image may have megabytes."""
    for number, message in enumerate(messages if isinstance(messages, list) else ()):
        path = f"messages.{number}"
        if not isinstance(message, dict):
            continue
        role, content = message.get("role"), message.get("content")
        if role in ("tool", "function"):
            raise _invalid(f"{path}.role", f"the role {role} is not supported: {TOOLS}")
        for index, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict) and part.get("type") != "text":
                raise _invalid(f"{path}.content.{index}", "only text parts are read")


def _check_last(messages: Sequence[ChatMessage]) -> None:
    last = len(messages) - 1
    if messages[last].role == "assistant":
        raise _invalid(
            f"messages.{last}.role",
            "the last message is the assistant's, and no message is continued; end with one of "
            "the user, or use /v1/completions",
        )
    if messages[last].role != "user":
        raise _invalid(f"messages.{last}.role", "the last message must be the user's")


def _invalid(param: str, reason: str) -> ApiError:
    return ApiError(HTTPStatus.BAD_REQUEST, f"{param}: {reason}", param=param)


def _short(text: str, most: int = 300) -> str:
    """A text of the client, so that an error is not as long as its request."""
    return text if len(text) <= most else f"{text[:most]}…"


def _message(message: ChatMessage) -> dict[str, str]:
    # `developer` is OpenAI's newer name of `system`; no chat template knows it.
    role = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return {"role": role, "content": message.content}
    return {"role": role, "content": "\n".join(part.text for part in message.content)}


# What the model is asked for


@dataclass(frozen=True, slots=True)
class _Options:
    """What the answers to one HTTP request have in common."""

    body: ChatBody | TextBody
    max_tokens: int | None
    log_probs: int | None
    defaults: SamplingConfig
    client: str


def _request(
    body: ChatBody | TextBody,
    prompts: Sequence[tuple[dict[str, str], ...] | str],
    options: _Options,
    *,
    is_chat: bool,
) -> ApiRequest:
    own = body.traitcli or TraitOptions()
    stream = body.stream_options or StreamOptions()
    return ApiRequest(
        tuple(_answers(prompts, options)),
        body.n or 1,
        is_chat,
        bool(body.stream),
        bool(stream.include_usage),
        own.detail != "summary",
    )


def _answers(
    prompts: Sequence[tuple[dict[str, str], ...] | str], options: _Options
) -> Iterator[ServedRequest]:
    body = options.body
    own = body.traitcli or TraitOptions()
    # Without a seed, the same question gets another answer: clients have a button for that.
    first = secrets.randbits(31) if body.seed is None else body.seed
    sampling = _sampling(options)
    for prompt in prompts:
        for number in range(body.n or 1):
            yield ServedRequest(
                prompt,
                sampling,
                (first + number) % _SEEDS,
                stop=tuple(filter(None, _texts(body.stop))),
                log_probs=options.log_probs,
                traits=None if own.traits is None else tuple(own.traits),
                steer=_texts(own.steer),
                stop_on=_texts(own.stop_on),
                client=f"{options.client} {body.user or ''}",
                about=dict(_about(body)),
                is_open_ended=options.max_tokens is None,
            )


def _sampling(options: _Options) -> SamplingConfig:
    body = options.body
    top_p = None if body.top_p is None else max(body.top_p, _SMALLEST_TOP_P)
    changes = {
        "max_new_tokens": options.max_tokens,
        "temperature": body.temperature,
        "top_p": top_p,
        "top_k": body.top_k,
    }
    chosen = {key: value for key, value in changes.items() if value is not None}
    try:
        return SamplingConfig.model_validate(options.defaults.model_dump() | chosen)
    except ValidationError as error:
        [(param, fault), *_] = list_faults(error, SamplingConfig, {})
        raise ApiError(HTTPStatus.BAD_REQUEST, fault, param=param) from None


def _texts(value: Texts | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _about(body: ChatBody | TextBody) -> Iterator[tuple[str, str | Mapping[str, str]]]:
    """What the client says of the request; it finds its records again by this."""
    if body.user:
        yield "user", body.user
    if body.metadata:
        yield "metadata", dict(body.metadata)
