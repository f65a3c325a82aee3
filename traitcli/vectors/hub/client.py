"""Reaches the Hugging Face Hub: the names of repositories, the connection, listings, and errors in plain words.

The token (HF_TOKEN, or `hf auth login`), the endpoint (HF_ENDPOINT), HF_HUB_OFFLINE, the cache and all retries are
huggingface_hub's: nothing here reads a token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from traitcli.errors import TraitError, VectorError

if TYPE_CHECKING:
    from httpx2 import Request
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoFile

SUFFIX = ".safetensors"
LARGEST, LARGEST_PULL = 2**28, 2**31
"""Bytes of one file and of all: the vector of a model with 126 blocks of width 16,384 takes 25 MB."""

_MOST = 2_000
"""Entries of a repository that are looked at."""
_SILENCE = 120.0
"""Seconds without a byte after which the hub counts as gone; huggingface_hub itself would wait for ever."""
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOKEN = re.compile(r"hf_[A-Za-z0-9_]{4,}")
_LOG_IN = "log in with: hf auth login, or set HF_TOKEN"


def is_repo(name: str) -> bool:
    """Whether this is ORG/NAME as the hub allows it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported, if not in so many words

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return _REPO.fullmatch(name) is not None


def is_vector_name(name: str) -> bool:
    """Whether a file of a repository is looked at: in no folder, and with a name that is plain on any system."""
    return name.endswith(SUFFIX) and _PLAIN.fullmatch(name) is not None


def connect() -> HfApi:
    """The hub's client, which gives up on a hub that has gone silent."""
    from huggingface_hub import HfApi, get_session

    hooks = get_session().event_hooks["request"]
    if _give_up_on_silence not in hooks:
        hooks.append(_give_up_on_silence)
    return HfApi(library_name="traitcli")


def _give_up_on_silence(request: Request) -> None:
    """Set a time limit where huggingface_hub sets none; it does so request by request, so the client's would not do."""
    limits = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {
        kind: limits.get(kind) or _SILENCE for kind in ("connect", "read", "write", "pool")
    }


def commit_of(told: str | None, repo: str) -> str:
    """A commit hash that may be printed and kept, from a server that may say anything."""
    if told is None or not _COMMIT.fullmatch(told):
        fix = "check HF_ENDPOINT and the name of the repository"
        raise VectorError(f"no commit of {repo}", cause="the hub names none", fix=fix)
    return told


def list_files(api: HfApi, repo: str, commit: str) -> list[RepoFile]:
    """The files of a commit that are in no folder; without a connection, what the cache knows of that commit."""
    from httpx2 import TransportError
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.hf_api import RepoFile

    try:
        entries = list(islice(api.list_repo_tree(repo, revision=commit), _MOST))
    except (TransportError, OfflineModeIsEnabled) as unreachable:
        try:
            return get_cached_repo_tree(repo, revision=commit)
        except CachedRepoTreeNotFoundError:
            raise unreachable from None
    return [entry for entry in entries if isinstance(entry, RepoFile)]


def check_sizes(entries: Sequence[RepoFile], repo: str) -> None:
    """Raise VectorError for more than trait vectors can have, before any of it is fetched."""
    fix = "name the traits that you want, or ask who pushed it"
    for entry in entries:
        if entry.size > LARGEST:
            cause = f"it has {entry.size:,} bytes, and at most {LARGEST:,} are fetched"
            raise VectorError(f"{entry.path} in {repo} is too large", cause=cause, fix=fix)
    if (total := sum(entry.size for entry in entries)) > LARGEST_PULL:
        cause = f"they have {total:,} bytes, and at most {LARGEST_PULL:,} are fetched"
        raise VectorError(f"the vectors in {repo} are too large", cause=cause, fix=fix)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


def shown_endpoint(endpoint: str) -> str:
    """The hub's address without a user and password."""
    parts = urlsplit(endpoint)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@contextmanager
def explained(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn what huggingface_hub raises into errors with a cause and a fix: VectorError for what the user can mend."""
    from httpx2 import TransportError
    from huggingface_hub.errors import LocalEntryNotFoundError, RevisionResolutionError

    try:
        yield
    except (TransportError, RevisionResolutionError, OSError, RuntimeError, ValueError) as error:
        wraps = isinstance(error, RevisionResolutionError | LocalEntryNotFoundError | RuntimeError)
        inner = (
            error.__cause__ if wraps else None
        )  # it tells more: the cache has nothing *because* the hub refuses
        raise _in_words(inner or error, repo, revision or "main") from None


def _in_words(error: BaseException, repo: str, revision: str) -> TraitError:
    from httpx2 import TimeoutException, TransportError
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return _refused(error, repo, revision)
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError) and is_offline():
        return VectorError(
            f"{revision} of {repo} is not in the local cache",
            cause="HF_HUB_OFFLINE is set, so nothing is fetched",
            fix="unset HF_HUB_OFFLINE, or name a revision that was pulled before",
        )
    fix = "check the connection and HF_ENDPOINT, and run the same command again"
    if isinstance(error, TransportError):
        silent = isinstance(error, TimeoutException)
        problem = (
            f"{shown_endpoint(ENDPOINT)} {'does not answer' if silent else 'cannot be reached'}"
        )
        return TraitError(problem, cause=plain_line(str(error)) or type(error).__name__, fix=fix)
    return TraitError(
        f"the exchange with {repo} failed",
        cause=plain_line(str(error)) or type(error).__name__,
        fix=fix,
    )


def _refused(error: HfHubHTTPError, repo: str, revision: str) -> TraitError:
    """An answer of the hub that is an error."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = error.response.status_code
    said = plain_line(error.server_message or "") or f"status {status}"
    unseen = "there is none of that name, or it is private and the token, if any, may not see it"
    mendable = {
        GatedRepoError: (f"{repo} is gated", said, f"ask for access on its page, then {_LOG_IN}"),
        RevisionNotFoundError: (
            f"no revision {revision} of {repo}",
            said,
            "name a branch, a tag or a whole commit",
        ),
        RepositoryNotFoundError: (
            f"no repository {repo} on the hub",
            unseen,
            f"check the name, or {_LOG_IN}",
        ),
        401: ("the hub wants a valid token", said, _LOG_IN),
        403: (
            f"the token may not do this with {repo}",
            said,
            "take a token that may: for a push, one that may write",
        ),
    }
    if told := mendable.get(type(error)) or mendable.get(status):
        problem, cause, fix = told
        return VectorError(problem, cause=cause, fix=fix)
    if status in {409, 412}:
        return TraitError(
            f"{repo} has changed meanwhile", cause=said, fix="run the same command again"
        )
    return TraitError(
        f"the hub refuses {repo}" if status < 500 else "the hub fails",
        cause=said,
        fix="try again later",
    )


def plain_line(text: str) -> str:
    """What a server says: one line of printable text, without anything that looks like a token."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return _TOKEN.sub("hf_…", line)[:200]
