"""Find the judge's address and API key before the first request."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from traitcli.config import OpenAIConfig
from traitcli.errors import ConfigError
from traitcli.judging import prompts
from traitcli.judging.backend import write_identity

OFFICIAL = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible address.

    host  the part that may be shown: host and port, without user name and password
    key   the API key, empty for a server that needs none
    """

    url: str
    host: str
    key: str = field(repr=False)


def find_endpoint(config: OpenAIConfig) -> Endpoint:
    """Return the configured address, else OPENAI_BASE_URL, else OpenAI's own.

    The key is OPENAI_API_KEY. Raises ConfigError if the address is not a URL.
    """
    url = (config.base_url or os.environ.get("OPENAI_BASE_URL") or OFFICIAL).strip()
    address = _parse(url)
    if address is None:
        raise ConfigError(
            "the judge has no valid address",
            cause=f"{url!r} is not an http or https URL",
            fix="set judge.openai.base_url, for example http://localhost:8000/v1",
        )
    # A URL may contain a password, and the host is stored with every judgement.
    host = address.netloc.rpartition("@")[2]
    return Endpoint(url, host, os.environ.get("OPENAI_API_KEY", "").strip())


def check_key(endpoint: Endpoint) -> None:
    """Raise ConfigError if OpenAI's own endpoint has no key, or the key cannot be sent."""
    hostname = urlsplit(endpoint.url).hostname or ""
    # Servers on the user's own machine usually need no key.
    if not endpoint.key and hostname.endswith("api.openai.com"):
        raise ConfigError(
            "the judge has no key",
            cause="OPENAI_API_KEY is not set",
            fix="export OPENAI_API_KEY=…, or set judge.openai.base_url to a server that needs none",
        )
    if not (endpoint.key.isascii() and endpoint.key.isprintable()):
        raise ConfigError(
            "OPENAI_API_KEY is not a key",
            cause="it contains characters that no key has",
            fix="copy the key again, without quotes or line breaks",
        )


def identify(config: OpenAIConfig, endpoint: Endpoint) -> str:
    """Return the judge's identity; the hash covers all other settings that can change a score."""
    # Stored judgements carry this text: a change here makes every one of them unreachable.
    settings = {
        "path": urlsplit(endpoint.url).path.rstrip("/"),
        "coherence": prompts.COHERENCE if config.coherence else "",
        "logprobs": config.logprobs,
        "ending": prompts.on_scale("100", config.scale),
        "samples": config.samples,
        "max_chars": prompts.MAX_CHARS,
    }
    name = f"openai:{config.model}@{endpoint.host}"
    return write_identity(name, config.scale, config.coherence, settings)


def _parse(url: str) -> SplitResult | None:
    try:
        address = urlsplit(url)
        valid = address.scheme in {"http", "https"} and address.hostname and address.port != 0
    except ValueError:
        return None
    return address if valid else None
