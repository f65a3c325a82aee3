"""Classify the refusals of an endpoint: try later, skip this answer, or stop judging."""

from __future__ import annotations

import re
from collections.abc import Mapping

from openai import APIStatusError

from traitcli.errors import JudgeError
from traitcli.files import parse_json

_TEMPORARY = frozenset({408, 409, 429})
_ABOUT_ONE_ANSWER = re.compile(
    r"context.?(length|size|window)|content.?(filter|management|policy)"
    r"|prompt is too long|string_above_max_length|flagged|moderation"
)

_ABOUT_KEY = re.compile(r"(api.?key|token) (is )?(not valid|invalid)|invalid (api.?key|token)")
_SHORTEST_KEY = 8


def is_temporary(error: APIStatusError) -> bool:
    """True if the same request may succeed later."""
    # An account without credit is refused with 429 as well, but waiting does not help.
    if error.code == "insufficient_quota" or is_about_parameters(error):
        return False
    return error.status_code in _TEMPORARY or error.status_code >= 500


def is_about_one_answer(error: APIStatusError) -> bool:
    """True if the endpoint refuses this text: it is too long, or filtered."""
    about = bool(_ABOUT_ONE_ANSWER.search(complaint(error)))
    # 403: OpenRouter, for a text that the provider's moderation refuses.
    return error.status_code == 413 or (error.status_code in {400, 403, 422} and about)


def is_about_parameters(error: APIStatusError) -> bool:
    """True if other parameters may help."""
    # Some servers answer 500 if they run without log-probabilities.
    return error.status_code in {400, 422} or (
        error.status_code in {500, 501} and "logprobs" in complaint(error)
    )


def complaint(error: APIStatusError) -> str:
    """Return the endpoint's whole message in lower case, for searching."""
    return f"{error.message} {error.body}".lower()


def quote(error: APIStatusError, secret: str) -> str:
    """Return the endpoint's own words on one line, without the API key."""
    text = " ".join(_message(error.body).split())

    is_html = text.startswith("<")  # the error page of a proxy says nothing of use
    if is_html or not text:
        return f"HTTP {error.status_code}"
    return f"HTTP {error.status_code}: {redact(text, secret)[:300]}"


def _message(body: object) -> str:
    """What an error says, wherever it says it; of several, the first."""
    if isinstance(body, str) and body.lstrip().startswith(("{", "[")):
        try:
            return _message(parse_json(body))
        except ValueError:
            return body
    if isinstance(body, list):
        return _message(body[0]) if body else ""
    if not isinstance(body, Mapping):
        return str(body or "")
    found = ""
    for key in ("error", "message", "detail", "msg"):
        if body.get(key):
            found = _message(body[key])
            break
    # OpenRouter says "Provider returned error", and keeps the provider's own words here.
    metadata = body.get("metadata")
    if isinstance(metadata, Mapping) and metadata.get("raw"):
        found = f"{found}: {_message(metadata['raw'])}"
    return found or str(dict(body))


def redact(text: str, secret: str) -> str:
    """Remove the API key from a message."""
    # Some endpoints quote the key, or parts of it, in a refusal.
    # A word such as "none" stands for no key, and would be cut out of other words.
    if len(secret) >= _SHORTEST_KEY:
        text = text.replace(secret, "[key]")
    return re.sub(r"\bsk-[\w*.-]+", "[key]", text)


def final_refusal(error: APIStatusError, *, model: str, host: str, secret: str) -> JudgeError:
    """Return the error that ends the judging."""
    problem = f"the judge at {host} refuses the request"
    fix = "see judge.openai in the config"
    if error.status_code in {401, 403} or _ABOUT_KEY.search(complaint(error)):
        problem = f"the judge at {host} refuses the key"
        fix = "set OPENAI_API_KEY to a key that may use this model"
    elif error.status_code == 404:
        about_model = "model" in complaint(error) or not _message(error.body)
        if about_model:
            problem = f"the judge at {host} has no model {model}"
        fix = "correct judge.openai.model or judge.openai.base_url (which usually ends in /v1)"
    elif error.code == "insufficient_quota" or error.status_code == 402:
        problem = f"the account at {host} has no credit left"
        fix = "add credit, then run the same command again"
    return JudgeError(problem, cause=quote(error, secret), fix=fix)
