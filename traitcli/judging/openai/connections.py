"""Makes HTTP clients; whatever is wrong with the environment becomes an error that names it."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from httpx2 import create_ssl_context
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from traitcli.errors import ConfigError
from traitcli.judging.openai.endpoint import Endpoint

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_TLS = (*_CERTIFICATES, "SSLKEYLOGFILE")
_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
_HEADERS = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")


def open_ssl_context() -> ssl.SSLContext:
    """What all connections are verified with; raises ConfigError for certificates that are gone."""
    for name in _CERTIFICATES:
        path = os.environ.get(name)
        if path and not os.path.exists(path):  # noqa: PTH110 - it may be any text
            raise _environment_error(name, path, "the file does not exist")
    with _explained(_TLS):
        return create_ssl_context()


def open_pool(endpoint: Endpoint, timeout: float, context: ssl.SSLContext) -> AsyncOpenAI:
    """A client for one endpoint.

    A query in its address stays behind the path of every request, as Azure wants it, and the key
    is then sent as `api-key` too. A server on this machine is reached without a proxy.

    Raises ConfigError, which names the variable, if a proxy or a header cannot be used.
    """
    for name in _HEADERS:
        value = os.environ.get(name, "")
        if not (value.isascii() and value.isprintable()):
            raise _environment_error(name, value, "a header cannot hold these characters")
    address = urlsplit(endpoint.url)
    query = dict(parse_qsl(address.query))
    path = address.path.rstrip("/").removesuffix("/chat/completions")
    with _explained(_PROXIES):
        return AsyncOpenAI(
            api_key=endpoint.key or "not-needed",
            base_url=urlunsplit((address.scheme, address.netloc, path, "", "")),
            default_query=query,
            default_headers={"api-key": endpoint.key} if query and endpoint.key else {},
            max_retries=0,  # the SDK's own retries would multiply with those of RetryBudget
            timeout=timeout,
            http_client=DefaultAsyncHttpxClient(
                verify=context, trust_env=not is_loopback(address.hostname or "")
            ),
        )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: no proxy could reach it."""
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _explained(names: Sequence[str]) -> Iterator[None]:
    """Raise ConfigError for what a library raises about some variables, and name those set."""
    try:
        yield
    except (ImportError, ValueError, OSError, TypeError) as error:
        spellings = [each for name in names for each in (name, name.lower())]
        found = [name for name in spellings if os.environ.get(name)]
        if not found:
            raise
        named = [name for name in found if os.environ[name] in str(error)] or found
        raise _environment_error(named[0], os.environ[named[0]], str(error)) from error


def _environment_error(name: str, value: str, cause: str) -> ConfigError:
    first, *_ = cause.splitlines() or [""]
    fix = f"correct or unset {name}"
    if "socks" in cause.lower() and "install" in cause.lower():
        fix = f"pip install 'httpx[socks]' socksio, or unset {name}"
    # A proxy's address may hold a password.
    shown = value.rpartition("@")[2] if "://" in value else value
    return ConfigError("cannot connect to the judge", cause=f"{name}={shown}: {first}", fix=fix)
