"""Connects to the Hugging Face Hub: names of repositories, listings, and errors in plain words.

huggingface_hub itself handles the token (HF_TOKEN, or `hf auth login`), the endpoint (HF_ENDPOINT),
HF_HUB_OFFLINE, the cache and retries. Nothing here reads a token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
MAX_FILE, MAX_PULL = 2**28, 2**31
"""Bytes of one file, and of all: the vector of 126 blocks of width 16,384 takes 25 MB."""
IDLE_TIMEOUT = 120.0
"""Seconds without a byte after which a request fails; huggingface_hub itself waits forever."""

_MAX_ENTRIES = 2_000
"""Files of a repository beyond which a listing is cut."""
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOKEN = re.compile(r"hf_[A-Za-z0-9_]{4,}")
_LOG_IN = "log in with: hf auth login, or set HF_TOKEN"


def is_repo(name: str) -> bool:
    """Whether this is ORG/NAME as the hub allows it. huggingface_hub also allows a bare NAME."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return _REPO.fullmatch(name) is not None


def is_vector_name(name: str) -> bool:
    """Whether a file is in no folder, and has a name that is safe to write on any system."""
    return name.endswith(SUFFIX) and _PLAIN.fullmatch(name) is not None


def connect(idle_timeout: float = IDLE_TIMEOUT) -> HfApi:
    """The hub's client; a request fails after `idle_timeout` seconds without a byte."""
    from huggingface_hub import HfApi, get_session

    # the session is global, and an earlier call may have set another limit
    hooks = get_session().event_hooks["request"]
    hooks[:] = [hook for hook in hooks if not isinstance(hook, _TimeLimit)]
    hooks.append(_TimeLimit(idle_timeout))
    return HfApi(library_name="traitcli")


@dataclass(frozen=True, slots=True)
class _TimeLimit:
    """A request hook that sets a timeout on requests without one.

    A default timeout of the client would do nothing: huggingface_hub passes timeout=None to each
    request, which overrides it.
    """

    seconds: float

    def __call__(self, request: Request) -> None:
        limits = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            kind: limits.get(kind) or self.seconds for kind in ("connect", "read", "write", "pool")
        }


def check_commit(commit: str | None, repo: str) -> str:
    """The commit if it is a hash; raises VectorError otherwise: a server may answer anything."""
    if commit is None or not _COMMIT.fullmatch(commit):
        fix = "check HF_ENDPOINT and the name of the repository"
        raise VectorError(
            f"no commit of {repo}", cause="the reply of the hub has no commit hash", fix=fix
        )
    return commit


def list_files(api: HfApi, repo: str, commit: str) -> list[RepoFile]:
    """The files of a commit that are in no folder; without a connection, those in the cache."""
    from httpx2 import TransportError
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.hf_api import RepoFile

    try:
        entries = list(islice(api.list_repo_tree(repo, revision=commit), _MAX_ENTRIES))
    except (TransportError, OfflineModeIsEnabled) as unreachable:
        # a commit never changes, so its cached listing is as good as a new one
        try:
            return get_cached_repo_tree(repo, revision=commit)
        except CachedRepoTreeNotFoundError:
            raise unreachable from None
    return [entry for entry in entries if isinstance(entry, RepoFile)]


def check_sizes(entries: Sequence[RepoFile], repo: str) -> None:
    """Raise VectorError, before anything is fetched, for more bytes than vectors have."""
    fix = "name the traits that you want, or ask who pushed it"
    for entry in entries:
        if entry.size > MAX_FILE:
            cause = f"it has {entry.size:,} bytes; the limit is {MAX_FILE:,}"
            raise VectorError(f"{entry.path} in {repo} is too large", cause=cause, fix=fix)
    total = sum(entry.size for entry in entries)
    if total > MAX_PULL:
        cause = f"they have {total:,} bytes; the limit is {MAX_PULL:,}"
        raise VectorError(f"the vectors in {repo} are too large", cause=cause, fix=fix)


def shown_endpoint(endpoint: str) -> str:
    """The hub's address without a user and password."""
    parts = urlsplit(endpoint)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@contextmanager
def explain_hub_errors(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn what huggingface_hub raises into errors with a cause and a fix.

    VectorError is for what the user can correct, TraitError for failures of the hub.
    """
    from httpx2 import TransportError
    from huggingface_hub.errors import LocalEntryNotFoundError, RevisionResolutionError

    try:
        yield
    except (TransportError, RevisionResolutionError, OSError, RuntimeError, ValueError) as error:
        # the cause says more: the cache has nothing *because* the hub refused
        wraps = isinstance(error, RevisionResolutionError | LocalEntryNotFoundError | RuntimeError)
        inner = error.__cause__ if wraps else None
        raise _explain(inner or error, repo, revision or "main") from None


def _explain(error: BaseException, repo: str, revision: str) -> TraitError:
    from httpx2 import TimeoutException, TransportError
    from huggingface_hub import is_offline_mode
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return _refused(error, repo, revision)
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError) and is_offline_mode():
        return VectorError(
            f"{revision} of {repo} is not in the local cache",
            cause="HF_HUB_OFFLINE is set, so nothing is fetched",
            fix="unset HF_HUB_OFFLINE, or name a revision that was pulled before",
        )

    problem = f"the request to {repo} failed"
    if isinstance(error, TransportError):
        state = "does not answer" if isinstance(error, TimeoutException) else "cannot be reached"
        problem = f"{shown_endpoint(ENDPOINT)} {state}"
    return TraitError(
        problem,
        cause=plain_line(str(error)) or type(error).__name__,
        fix="check the connection and HF_ENDPOINT, and run the same command again",
    )


def _refused(error: HfHubHTTPError, repo: str, revision: str) -> TraitError:
    """An error that the hub itself answered with."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # the classes first: the hub answers 401 and 404 for private, gated and missing repositories
    status = error.response.status_code
    answer = plain_line(error.server_message or "") or f"status {status}"

    # problem, cause and fix of what the user can correct
    correctable = {
        GatedRepoError: (
            f"{repo} is gated",
            answer,
            f"ask for access on its page, then {_LOG_IN}",
        ),
        RevisionNotFoundError: (
            f"no revision {revision} of {repo}",
            answer,
            "name a branch, a tag or a whole commit",
        ),
        RepositoryNotFoundError: (
            f"no repository {repo} on the hub",
            "it does not exist, or it is private and your token cannot read it",
            f"check the name, or {_LOG_IN}",
        ),
        401: ("the hub requires a valid token", answer, _LOG_IN),
        403: (
            f"your token has no permission for this on {repo}",
            answer,
            "use a token with that permission; a push needs write access",
        ),
    }
    if found := correctable.get(type(error)) or correctable.get(status):
        problem, cause, fix = found
        return VectorError(problem, cause=cause, fix=fix)

    if status in {409, 412}:
        return TraitError(
            f"{repo} changed during the push", cause=answer, fix="run the same command again"
        )
    problem = f"the hub refuses {repo}" if status < 500 else "the hub failed"
    return TraitError(problem, cause=answer, fix="try again later")


def plain_line(text: str) -> str:
    """One line of printable text, without anything that looks like a token."""
    printable = "".join(sign if sign.isprintable() else " " for sign in text)
    return _TOKEN.sub("hf_…", " ".join(printable.split()))[:200]
