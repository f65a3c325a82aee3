"""Pulls trait vectors from a repository on the Hugging Face Hub into the user's vectors folder.

Every file is checked before any is written.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from traitcli.config import Config
from traitcli.errors import VectorError, suggest
from traitcli.files import parse_json, read_text, write_atomic
from traitcli.vectors.files import read_vector, vector_folder
from traitcli.vectors.hub.client import (
    IDLE_TIMEOUT,
    SUFFIX,
    check_commit,
    check_sizes,
    connect,
    explain_hub_errors,
    is_repo,
    is_vector_name,
    list_files,
    plain_line,
)

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

ORIGINS = "pulled.json"
"""File next to pulled vectors: trait -> repository, commit, and SHA-256 of the pulled file."""

_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


@dataclass(frozen=True, slots=True)
class Source:
    """A repository and a revision of it, as in `ORG/NAME[@REVISION]`; None is the main branch."""

    repo: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Raises VectorError when the text does not name a repository."""
        repo, at, revision = text.partition("@")
        is_revision = not at or (_REVISION.fullmatch(revision) and ".." not in revision)
        if not is_repo(repo) or not is_revision:
            raise VectorError(
                f"{text!a} does not name a repository on the hub",
                cause="expected ORG/NAME or ORG/NAME@REVISION; "
                "a revision is a commit, a tag or a branch",
                fix="correct the name, for example my-org/gemma-2-2b-it-vectors",
            )
        return cls(repo, revision or None)


@dataclass(frozen=True, slots=True)
class Pulled:
    """The files that a pull wrote, and the commit they come from."""

    repo: str
    commit: str
    paths: tuple[Path, ...]


def pull_vectors(
    config: Config, source: Source, names: Sequence[str] = (), *, idle_timeout: float = IDLE_TIMEOUT
) -> Pulled:
    """Fetch a repository's vectors of the config's model into `paths.vectors`: all, or those named.

    A vector that was pulled before is replaced; the user's own never is. Without a connection, the
    cached files of the revision are used. A request fails after `idle_timeout` seconds without a
    byte.

    Raises VectorError for what the user can correct, and TraitError when the hub fails.
    """
    api, repo = connect(idle_timeout), source.repo
    with explain_hub_errors(repo, source.revision):
        resolved = api.resolve_revision(repo, revision=source.revision).resolved
        # everything below names the commit: a branch may move during the pull
        commit = check_commit(resolved, repo)
        entries = _choose(list_files(api, repo, commit), names, repo)
        paths = [entry.path for entry in entries]
        snapshot = Path(api.snapshot_download(repo, revision=commit, allow_patterns=paths))
        contents = {
            entry.path: _read_whole(snapshot / entry.path, entry, repo) for entry in entries
        }

    # all are checked before the first is written, so that a bad file never leaves half a pull
    for path in paths:
        _check_vector(snapshot / path, config, repo)
    return Pulled(repo, commit, _write(contents, vector_folder(config), repo, commit))


def _choose(listed: Iterable[RepoFile], names: Sequence[str], repo: str) -> list[RepoFile]:
    """The files to fetch; raises VectorError when a named one is missing, or one is too large."""
    found = {
        entry.path.removesuffix(SUFFIX): entry for entry in listed if is_vector_name(entry.path)
    }
    if missing := [name for name in names if name not in found]:
        cause = f"it holds {', '.join(sorted(found)) or 'no vectors'}"
        raise VectorError(
            f"no vector of {', '.join(missing)} in {repo}",
            cause=cause,
            fix=suggest(missing[0], found),
        )
    if not found:
        cause = f"it has no {SUFFIX} file at its top level"
        raise VectorError(
            f"no vectors in {repo}", cause=cause, fix="check the name and the revision"
        )

    chosen = [found[name] for name in sorted(set(names) or found)]
    check_sizes(chosen, repo)
    return chosen


def _read_whole(path: Path, entry: RepoFile, repo: str) -> bytes:
    """The content of a fetched file; one that is not what the commit names is refused.

    huggingface_hub compares sizes only. A damaged file also leaves the cache, so that the next pull
    fetches it again.
    """
    content = path.read_bytes() if path.is_file() else b""
    # a listing from the hub has the SHA-256 of large files, one from the cache only sizes
    is_whole = _sha256(content) == entry.lfs.sha256 if entry.lfs else len(content) == entry.size
    if not is_whole:
        # the path is a link to the cached content, and both must go
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise VectorError(
            f"{entry.path} in {repo} arrived damaged",
            cause="its content is not that of the commit",
            fix="run the same command again",
        )
    return content


def _check_vector(path: Path, config: Config, repo: str) -> None:
    """Raise VectorError unless a file is a vector of its name's trait and the config's model."""
    shown = f"{path.name} in {repo}"
    try:
        vector = read_vector(path)
    except VectorError as error:
        raise VectorError(
            f"{shown} is not a trait vector", cause=plain_line(error.cause), fix="ask who pushed it"
        ) from None

    if vector.model != config.model.name:
        raise VectorError(
            f"{shown} is for another model",
            cause=f"it is for {vector.model!a}, and the config's model is {config.model.name}",
            fix="name a config of that model with -c",
        )
    if vector.trait != path.stem:
        cause = f"its trait is {vector.trait!a}"
        raise VectorError(
            f"{shown} does not match its file name", cause=cause, fix="ask who pushed it"
        )


def _write(contents: dict[str, bytes], folder: Path, repo: str, commit: str) -> tuple[Path, ...]:
    """Write checked files to the vectors folder, and note their origins.

    Raises VectorError, before anything is written, when one would replace the user's own vector.
    """
    origins = _read_origins(folder)
    own = [
        folder / name
        for name, content in contents.items()
        if _is_own(folder / name, content, origins)
    ]
    if own:
        raise VectorError(
            f"a pull would replace {', '.join(map(str, own))}",
            cause=f"{repo} holds another vector of that name, and yours was not pulled",
            fix="move yours, set paths.vectors to another folder, or name only the traits you want",
        )
    for name, content in contents.items():
        write_atomic(folder / name, content)
        origins[Path(name).stem] = {"repo": repo, "commit": commit, "sha256": _sha256(content)}

    # last: without it a vector counts as the user's own, which no pull replaces
    write_atomic(folder / ORIGINS, json.dumps(origins, indent=1, sort_keys=True) + "\n")
    return tuple(folder / name for name in contents)


def _is_own(path: Path, content: bytes, origins: dict[str, dict[str, str]]) -> bool:
    """Whether a file exists that neither has this content nor is as it was pulled."""
    if not path.is_file():
        return False
    existing = path.read_bytes()
    if existing == content:
        return False
    return origins.get(path.stem, {}).get("sha256") != _sha256(existing)


def _read_origins(folder: Path) -> dict[str, dict[str, str]]:
    """What was pulled before; without a readable record every vector is the user's own."""
    try:
        origins = parse_json(read_text(folder / ORIGINS))
    except (OSError, ValueError):
        return {}
    is_valid = isinstance(origins, dict) and all(
        isinstance(origin, dict) for origin in origins.values()
    )
    return origins if is_valid else {}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
