"""Find where the judge is and with which key to ask, before anything is asked."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from traitcli.config import OpenAIConfig
from traitcli.errors import ConfigError
from traitcli.judging import prompts

OFFICIAL = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible address; `host` is what may be shown of it, with the port and without user names."""

    url: str
    host: str
    key: str = field(repr=False)
    """Empty for a server that needs none."""


def find_endpoint(config: OpenAIConfig) -> Endpoint:
    """The configured address, else OPENAI_BASE_URL, else OpenAI's own; the key is OPENAI_API_KEY, if any.

    Raises ConfigError when the address is no URL.
    """
    url = (config.base_url or os.environ.get("OPENAI_BASE_URL") or OFFICIAL).strip()
    address = _parse(url)
    if address is None:
        raise ConfigError(
            "the judge has no valid address",
            cause=f"{url!r} is not an http or https URL",
            fix="set judge.openai.base_url, for example http://localhost:8000/v1",
        )
    return Endpoint(
        url, address.netloc.rpartition("@")[2], os.environ.get("OPENAI_API_KEY", "").strip()
    )


def check_key(endpoint: Endpoint) -> None:
    """Raise ConfigError when OpenAI's own endpoint is to be asked without a key, or the key cannot be one."""
    hostname = urlsplit(endpoint.url).hostname or ""
    if not endpoint.key and hostname.endswith("api.openai.com"):
        raise ConfigError(
            "the judge has no key",
            cause="OPENAI_API_KEY is not set",
            fix="export OPENAI_API_KEY=…, or set judge.openai.base_url to a server that needs none",
        )
    if not (endpoint.key.isascii() and endpoint.key.isprintable()):
        raise ConfigError(
            "OPENAI_API_KEY is not a key",
            cause="it holds characters that no key has",
            fix="copy the key again, without quotes or line breaks",
        )


def identify(config: OpenAIConfig, endpoint: Endpoint) -> str:
    """The judge in one line; the hash covers all other settings that can change a score, and no secret."""
    settings = {
        "path": urlsplit(endpoint.url).path.rstrip("/"),
        "coherence": prompts.COHERENCE if config.coherence else "",
        "logprobs": config.logprobs,
        "ending": prompts.on_scale("100", config.scale),
        "samples": config.samples,
        "max_chars": prompts.MAX_CHARS,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    coherence = "+coherence" if config.coherence else ""
    return f"openai:{config.model}@{endpoint.host}:{config.scale}{coherence}#{digest}"


def _parse(url: str) -> SplitResult | None:
    try:
        address = urlsplit(url)
        valid = address.scheme in {"http", "https"} and address.hostname and address.port != 0
    except ValueError:
        return None
    return address if valid else None
