"""Pushes a model's trait vectors, with a vector card, to a repository on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from traitcli.errors import VectorError
from traitcli.records import POSITIONS
from traitcli.vectors.files import VectorHeader, read_header, read_vector
from traitcli.vectors.hub.card import Kept, make_card, read_card
from traitcli.vectors.hub.client import (
    LARGEST,
    check_sizes,
    commit_of,
    connect,
    explained,
    is_offline,
    is_repo,
    is_vector_name,
    list_files,
    shown_endpoint,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoFile

_README = "README.md"


@dataclass(frozen=True, slots=True)
class Pushed:
    """Where vectors are now: the page of the commit that holds them; `changed` if the push made that commit."""

    repo: str
    commit: str
    url: str
    changed: bool


def check_push(repo: str) -> None:
    """Raise VectorError when nothing can be pushed there, as far as that can be told without asking the hub."""
    if not is_repo(repo):
        raise VectorError(
            f"{repo!a} names no repository on the hub",
            cause="that is ORG/NAME, of letters, digits, '-', '_' and '.'",
            fix="correct the name, e.g. my-org/gemma-2-2b-it-vectors",
        )
    if is_offline():
        cause, fix = "HF_HUB_OFFLINE is set", "unset it and run the same command again"
        raise VectorError(f"cannot push to {repo}", cause=cause, fix=fix)


def push_vectors(paths: Sequence[Path], repo: str, *, private: bool = False) -> Pushed:
    """Put one model's vectors and a new vector card into a repository, in one commit; it is created if missing.

    A `_diff.pt` file beside a vector goes along. Vectors that the repository holds already stay, and are in the card.
    Where nothing has changed there is no new commit. Raises VectorError for what the user can mend, a repository
    that holds something else among it, and TraitError when the hub fails.
    """
    from huggingface_hub import CommitOperationAdd

    check_push(repo)
    headers = _headers_of(paths)
    model = next(iter(headers.values())).model
    api = connect()
    with explained(repo):
        api.create_repo(
            repo, private=private or None, exist_ok=True
        )  # None: as the organisation has it
        there = api.model_info(repo)
        head = commit_of(there.sha, repo)
        listed = list_files(api, repo, head)
    _check_privacy(there, private, repo)
    kept = _kept(api, repo, head, listed)
    others = _others(
        api, repo, head, [entry for entry in listed if Path(entry.path).stem not in headers]
    )
    _check_model(others, model, repo)
    card = make_card([*headers.values(), *others], repo, kept)
    operations = [
        CommitOperationAdd(file.name, file) for path in paths for file in _with_tensors(path)
    ]
    operations.append(CommitOperationAdd(_README, card.encode()))
    message = f"Vectors of {model!a}: {', '.join(headers)}"[:200]
    with explained(repo):
        made = api.create_commit(repo, operations, commit_message=message, parent_commit=head)
    commit = commit_of(made.oid, repo)
    return Pushed(
        repo, commit, f"{shown_endpoint(api.endpoint)}/{repo}/tree/{commit}", commit != head
    )


def _headers_of(paths: Sequence[Path]) -> dict[str, VectorHeader]:
    """Trait -> header of the vectors to push: whole, of one model, and named after their traits."""
    headers: dict[str, VectorHeader] = {}
    for path in paths:
        header = VectorHeader.of(read_vector(path))  # the tensors must be whole too
        if header.trait != path.stem or not is_vector_name(path.name):
            raise VectorError(
                f"{path} cannot be pushed",
                cause=f"it is a vector of {header.trait!a}, and a file is named after its trait",
                fix="give it its name back, or build it anew",
            )
        headers[path.stem] = header
    if not headers:
        raise VectorError(
            "there is nothing to push", cause="no vector was named", fix="name at least one trait"
        )
    if len(models := sorted({header.model for header in headers.values()})) > 1:
        fix = "push each model's to a repository of its own"
        raise VectorError(
            "these are vectors of several models", cause=", ".join(map(ascii, models)), fix=fix
        )
    return headers


def _with_tensors(path: Path) -> list[Path]:
    """A vector, and the bare tensors beside it."""
    tensors = (path.with_name(f"{path.stem}_{position}_diff.pt") for position in POSITIONS)
    return [path, *(tensor for tensor in tensors if tensor.is_file())]


def _check_privacy(there: ModelInfo, private: bool, repo: str) -> None:
    """Raise VectorError for a repository that is public, though it should not be."""
    if private and not there.private:
        raise VectorError(
            f"{repo} is public",
            cause="it was there already, and --private is for a repository that is created",
            fix="make it private on the hub, push to another, or leave --private out",
        )


def _check_model(others: Iterable[VectorHeader], model: str, repo: str) -> None:
    """Raise VectorError when a repository holds vectors of another model."""
    if foreign := sorted({header.model for header in others} - {model}):
        raise VectorError(
            f"{repo} holds vectors of another model",
            cause=f"they are of {foreign[0]!a}, and yours of {model!a}",
            fix="push to a repository of its own: one for each model",
        )


def _kept(api: HfApi, repo: str, head: str, listed: Iterable[RepoFile]) -> Kept:
    """What its owner has added to the card that is there; raises VectorError for a README that is no card."""
    there = [entry for entry in listed if entry.path == _README]
    if not there:
        return Kept()
    check_sizes(there, repo)
    with explained(repo):
        path = Path(api.hf_hub_download(repo, _README, revision=head))
    kept = read_card(path.read_text(encoding="utf-8", errors="replace"))
    if kept is None:
        raise VectorError(
            f"{repo} is not a repository of vectors",
            cause="traitcli has not written its README.md, and a push would replace it",
            fix="push to a repository of its own, or empty that README.md first",
        )
    return kept


def _others(api: HfApi, repo: str, head: str, entries: Iterable[RepoFile]) -> list[VectorHeader]:
    """Headers of the vectors that are there and not pushed now, for the card; what is none is left alone."""
    headers = []
    for entry in entries:
        if not is_vector_name(entry.path) or entry.size > LARGEST:
            continue
        with explained(repo):
            path = Path(api.hf_hub_download(repo, entry.path, revision=head))
        with suppress(VectorError):
            header = read_header(path)
            headers += [header] if header.trait == path.stem else []
    return headers
