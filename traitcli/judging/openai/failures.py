"""Tell what an endpoint's refusal means: come back later, not this answer, or never."""

from __future__ import annotations

import re
from collections.abc import Mapping

from openai import APIStatusError

from traitcli.errors import JudgeError

_PASSING = frozenset({408, 409, 429})
_ABOUT_ONE_ANSWER = re.compile(
    r"context.?(length|size|window)|content.?(filter|management|policy)|prompt is too long|string_above_max_length"
)


def is_passing(error: APIStatusError) -> bool:
    """True when the same request may well succeed later; money that has run out does not come back by itself."""
    if error.code == "insufficient_quota" or is_about_parameters(error):
        return False
    return error.status_code in _PASSING or error.status_code >= 500


def is_about_one_answer(error: APIStatusError) -> bool:
    """True when this text is what the endpoint will not read: too long for it, or filtered."""
    about = bool(_ABOUT_ONE_ANSWER.search(complaint(error)))
    return error.status_code == 413 or (error.status_code in {400, 422} and about)


def is_about_parameters(error: APIStatusError) -> bool:
    """True when it may be how the question was asked; some servers fail (500) where log-probabilities are off."""
    return error.status_code in {400, 422} or (
        error.status_code in {500, 501} and "logprobs" in complaint(error)
    )


def complaint(error: APIStatusError) -> str:
    """All that the endpoint said, in lower case, to search in."""
    return f"{error.message} {error.body}".lower()


def quote(error: APIStatusError, secret: str) -> str:
    """The endpoint's own words on one line, without the key."""
    body = error.body
    said = body.get("message", body.get("detail", body)) if isinstance(body, Mapping) else body
    text = " ".join(str(said or "").split())
    if text.startswith("<"):
        text = ""  # a proxy's HTML page
    text = redact(text, secret)
    return f"HTTP {error.status_code}" + (f": {text[:300]}" if text else "")


def redact(text: str, secret: str) -> str:
    """Some endpoints quote the key, or the ends of it, when they refuse it."""
    if secret:
        text = text.replace(secret, "[key]")
    return re.sub(r"\bsk-[\w*.-]+", "[key]", text)


def final_refusal(error: APIStatusError, *, model: str, host: str, secret: str) -> JudgeError:
    """The error that ends the judging."""
    problem, fix = f"the judge at {host} refuses the request", "see judge.openai in the config"
    if error.status_code in {401, 403}:
        problem = f"the judge at {host} refuses the key"
        fix = "set OPENAI_API_KEY to a key that may use this model"
    elif error.status_code == 404:
        problem = f"the judge at {host} has no model {model}"
        fix = "correct judge.openai.model or judge.openai.base_url (which usually ends in /v1)"
    elif error.code == "insufficient_quota":
        problem, fix = (
            f"the account at {host} has no credit left",
            "add credit, then run the same command again",
        )
    return JudgeError(problem, cause=quote(error, secret), fix=fix)
