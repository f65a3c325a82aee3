"""Pulls trait vectors from a repository on the Hugging Face Hub into the user's own, checked before they are put."""

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
from traitcli.files import parse_json, write_atomic
from traitcli.vectors.files import read_vector, vector_folder
from traitcli.vectors.hub.client import (
    SUFFIX,
    check_sizes,
    commit_of,
    connect,
    explained,
    is_repo,
    is_vector_name,
    list_files,
    plain_line,
)

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

ORIGINS = "pulled.json"
"""Beside pulled vectors: trait -> its repository and commit, and the SHA-256 of the file that was pulled."""

_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


@dataclass(frozen=True, slots=True)
class Source:
    """A repository and one of its revisions, as `ORG/NAME[@REVISION]` names them; none: its main branch."""

    repo: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Raises VectorError when this names no repository."""
        repo, at, revision = text.partition("@")
        names_one = not at or (_REVISION.fullmatch(revision) and ".." not in revision)
        if not is_repo(repo) or not names_one:
            raise VectorError(
                f"{text!a} names no repository on the hub",
                cause="that is ORG/NAME or ORG/NAME@REVISION, a revision being a commit, a tag or a branch",
                fix="correct the name, e.g. my-org/gemma-2-2b-it-vectors",
            )
        return cls(repo, revision or None)


@dataclass(frozen=True, slots=True)
class Pulled:
    """The files that a pull has put, and the commit that they come from."""

    repo: str
    commit: str
    paths: tuple[Path, ...]


def pull_vectors(config: Config, source: Source, names: Sequence[str] = ()) -> Pulled:
    """Fetch a repository's vectors of the config's model into `paths.vectors`; all of them, or those named.

    Each is read and checked before any is put, and a vector of the user's own is never replaced; one that was pulled
    before is. Without a connection, what the cache holds of the revision is taken. Raises VectorError and TraitError.
    """
    api, repo = connect(), source.repo
    with explained(repo, source.revision):
        commit = commit_of(api.resolve_revision(repo, revision=source.revision).resolved, repo)
        entries = _chosen(list_files(api, repo, commit), names, repo)
        wanted = [entry.path for entry in entries]
        held = Path(api.snapshot_download(repo, revision=commit, allow_patterns=wanted))
        fetched = {
            name: _arrived(held / name, entry, repo)
            for name, entry in zip(wanted, entries, strict=True)
        }
    for name in wanted:
        _check_vector(held / name, config, repo)
    return Pulled(repo, commit, _put(fetched, vector_folder(config), repo, commit))


def _chosen(listed: Iterable[RepoFile], names: Sequence[str], repo: str) -> list[RepoFile]:
    """The files to fetch; raises VectorError when one that is asked for is not there, or too large for a vector."""
    found = {
        entry.path.removesuffix(SUFFIX): entry for entry in listed if is_vector_name(entry.path)
    }
    if missing := [name for name in names if name not in found]:
        cause = f"it holds {', '.join(sorted(found)) or 'no vectors'}"
        raise VectorError(
            f"no vector of {', '.join(missing)} in {repo}",
            cause=cause,
            fix=suggest(missing[0], found) or "choose one of them",
        )
    if not found:
        cause = f"it has no {SUFFIX} file, outside of folders"
        raise VectorError(
            f"no vectors in {repo}", cause=cause, fix="check the name and the revision"
        )
    chosen = [found[name] for name in sorted(set(names) or found)]
    check_sizes(chosen, repo)
    return chosen


def _arrived(path: Path, entry: RepoFile, repo: str) -> bytes:
    """A file's content; raises VectorError when it is not what the commit names, and lets the cache forget it."""
    content = path.read_bytes() if path.is_file() else b""
    # the hub keeps vectors as large files, whose SHA-256 a listing tells; the cache's listing tells only their size
    is_whole = _sha256(content) == entry.lfs.sha256 if entry.lfs else len(content) == entry.size
    if not is_whole:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise VectorError(
            f"{entry.path} in {repo} did not arrive as it should",
            cause="it is not the file that the commit names",
            fix="run the same command again",
        )
    return content


def _check_vector(path: Path, config: Config, repo: str) -> None:
    """Raise VectorError when a fetched file is no vector, or not of its trait and the config's model."""
    where = f"{path.name} in {repo}"
    try:
        vector = read_vector(path)
    except VectorError as error:
        raise VectorError(
            f"{where} is not a trait vector", cause=plain_line(error.cause), fix="ask who pushed it"
        ) from None
    if vector.model != config.model.name:
        raise VectorError(
            f"{where} is of another model",
            cause=f"it is of {vector.model!a}, and the config's model is {config.model.name}",
            fix="name a config of that model with -c",
        )
    if vector.trait != path.stem:
        cause = f"it says that it is of {vector.trait!a}"
        raise VectorError(
            f"{where} is not what its name says", cause=cause, fix="ask who pushed it"
        )


def _put(fetched: dict[str, bytes], folder: Path, repo: str, commit: str) -> tuple[Path, ...]:
    """Write checked files to the user's vectors, and note where they come from.

    Raises VectorError, before anything is written, when that would replace a vector that was not pulled.
    """
    known = _origins(folder)
    if own := [
        folder / name for name, content in fetched.items() if _is_own(folder / name, content, known)
    ]:
        raise VectorError(
            f"{', '.join(map(str, own))} would be lost",
            cause=f"{repo} holds another vector of that name, and this one was not pulled",
            fix="move yours away, set paths.vectors to another folder, or name the traits that you want",
        )
    for name, content in fetched.items():
        write_atomic(folder / name, content)
        known[Path(name).stem] = {"repo": repo, "commit": commit, "sha256": _sha256(content)}
    write_atomic(folder / ORIGINS, json.dumps(known, indent=1, sort_keys=True) + "\n")
    return tuple(folder / name for name in fetched)


def _is_own(path: Path, content: bytes, known: dict[str, dict[str, str]]) -> bool:
    """Whether there is a vector of that name which is neither the same nor the one that was pulled."""
    there = path.read_bytes() if path.is_file() else content
    return there != content and known.get(path.stem, {}).get("sha256") != _sha256(there)


def _origins(folder: Path) -> dict[str, dict[str, str]]:
    """What was pulled before; if that cannot be read, every vector counts as the user's own."""
    try:
        known = parse_json((folder / ORIGINS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_whole = isinstance(known, dict) and all(
        isinstance(origin, dict) for origin in known.values()
    )
    return known if is_whole else {}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
