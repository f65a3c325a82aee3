"""Pushes a model's trait vectors, with a vector card, to a repository on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from traitcli.errors import VectorError
from traitcli.records import POSITIONS
from traitcli.vectors.files import VectorHeader, read_vector
from traitcli.vectors.hub.card import OwnersPart, make_card, read_card
from traitcli.vectors.hub.client import (
    IDLE_TIMEOUT,
    MAX_FILE,
    check_commit,
    check_sizes,
    connect,
    explain_hub_errors,
    is_repo,
    is_vector_name,
    list_files,
    shown_endpoint,
)
from traitcli.vectors.labelled import path_of_tests, tests_of
from traitcli.vectors.verdict import with_verdict

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoFile

_README = "README.md"


@dataclass(frozen=True, slots=True)
class Pushed:
    """Where vectors are on the hub: the page of a commit. `changed`: this push made the commit."""

    repo: str
    commit: str
    url: str
    changed: bool


def check_push(repo: str) -> None:
    """Raise VectorError when a push must fail, as far as that is known without asking the hub."""
    from huggingface_hub import is_offline_mode

    if not is_repo(repo):
        raise VectorError(
            f"{repo!a} does not name a repository on the hub",
            cause="expected ORG/NAME, of letters, digits, '-', '_' and '.'",
            fix="correct the name, for example my-org/gemma-2-2b-it-vectors",
        )
    if is_offline_mode():
        cause, fix = "HF_HUB_OFFLINE is set", "unset it and run the same command again"
        raise VectorError(f"cannot push to {repo}", cause=cause, fix=fix)


def push_vectors(
    paths: Sequence[Path], repo: str, *, private: bool = False, idle_timeout: float = IDLE_TIMEOUT
) -> Pushed:
    """Put one model's vectors and a new vector card into a repository, in one commit.

    The repository is created if it does not exist. `_diff.pt` files and kept results next to a
    vector are pushed too. Other vectors in the repository stay, and are listed in the card. If
    nothing has changed there is no new commit. A request fails after `idle_timeout` seconds without
    a byte.

    Raises VectorError for what the user can correct, such as a repository with other content, and
    TraitError when the hub fails.
    """
    from huggingface_hub import CommitOperationAdd

    check_push(repo)
    headers = _read_headers(paths)
    model = next(iter(headers.values())).model
    api = connect(idle_timeout)
    with explain_hub_errors(repo):
        # None: the default of the organization
        api.create_repo(repo, private=private or None, exist_ok=True)
        info = api.model_info(repo)
        head = check_commit(info.sha, repo)
        listed = list_files(api, repo, head)
    _check_privacy(info, private, repo)

    readme = _fetch_card(api, repo, head, listed)
    unpushed = [entry for entry in listed if Path(entry.path).stem not in headers]
    # the card lists every vector of the repository, also those of an earlier push
    others = _fetch_headers(api, repo, head, unpushed)
    _check_model(others, model, repo)

    card = make_card([*headers.values(), *others], repo, readme)
    files = [file for path in paths for file in _with_files(path)]
    operations = [CommitOperationAdd(file.name, file) for file in files]
    operations.append(CommitOperationAdd(_README, card.encode()))
    message = f"Vectors of {model!a}: {', '.join(headers)}"[:200]
    with explain_hub_errors(repo):
        # parent_commit: fails if someone else has pushed since the card was read
        made = api.create_commit(repo, operations, commit_message=message, parent_commit=head)
    commit = check_commit(made.oid, repo)
    url = f"{shown_endpoint(api.endpoint)}/{repo}/tree/{commit}"
    return Pushed(repo, commit, url, commit != head)


def _read_headers(paths: Sequence[Path]) -> dict[str, VectorHeader]:
    """Trait -> header of the vectors to push: whole, of one model, and named after their traits."""
    headers: dict[str, VectorHeader] = {}
    for path in paths:
        header = _read_judged(path)  # a damaged tensor must not be pushed
        if header.trait != path.stem or not is_vector_name(path.name):
            raise VectorError(
                f"{path} cannot be pushed",
                cause=f"it is a vector of {header.trait!a}, and a file is named after its trait",
                fix="rename the file, or rebuild it",
            )
        headers[path.stem] = header

    if not headers:
        raise VectorError(
            "nothing to push", cause="no vector was named", fix="name at least one trait"
        )
    models = sorted({header.model for header in headers.values()})
    if len(models) > 1:
        raise VectorError(
            "cannot push vectors of several models",
            cause=", ".join(map(ascii, models)),
            fix="push each model's vectors to its own repository",
        )
    return headers


def _with_files(path: Path) -> list[Path]:
    """A vector file, the bare tensors next to it, and its results on labelled answers."""
    beside = [path.with_name(f"{path.stem}_{position}_diff.pt") for position in POSITIONS]
    return [path, *(file for file in (*beside, path_of_tests(path)) if file.is_file())]


def _check_privacy(info: ModelInfo, private: bool, repo: str) -> None:
    """Raise VectorError for a repository that is public and should not be."""
    if private and not info.private:
        raise VectorError(
            f"{repo} is public",
            cause="it already existed, and --private applies to a new repository only",
            fix="make it private on the hub, push to another, or leave --private out",
        )


def _check_model(others: Iterable[VectorHeader], model: str, repo: str) -> None:
    """Raise VectorError when a repository holds vectors of another model."""
    if foreign := sorted({header.model for header in others} - {model}):
        raise VectorError(
            f"{repo} holds vectors of another model",
            cause=f"they are for {foreign[0]!a}, and yours are for {model!a}",
            fix="push to another repository: one for each model",
        )


def _fetch_card(api: HfApi, repo: str, head: str, listed: Iterable[RepoFile]) -> OwnersPart:
    """What the owner added to the existing card; raises VectorError for another README."""
    readme = [entry for entry in listed if entry.path == _README]
    if not readme:
        return OwnersPart()
    check_sizes(readme, repo)
    with explain_hub_errors(repo):
        path = Path(api.hf_hub_download(repo, _README, revision=head))
    kept = read_card(path.read_text(encoding="utf-8", errors="replace"))
    if kept is None:
        raise VectorError(
            f"{repo} is not a repository of vectors",
            cause="its README.md was not written by traitcli, and a push would replace it",
            fix="push to another repository, or empty that README.md first",
        )
    return kept


def _read_judged(path: Path) -> VectorHeader:
    """A vector's header, with the verdict by what is measured and kept beside it now."""
    vector = read_vector(path)
    tests, _ = tests_of(vector, path)
    return replace(VectorHeader.of(vector), quality=with_verdict(vector.quality, tests))


def _fetch_headers(
    api: HfApi, repo: str, head: str, entries: Iterable[RepoFile]
) -> list[VectorHeader]:
    """Headers of the vectors in a repository, for the card; other files are skipped."""
    names = [
        entry.path for entry in entries if is_vector_name(entry.path) and entry.size <= MAX_FILE
    ]
    tests = [path_of_tests(Path(name)).name for name in names]
    if not names:
        return []
    with explain_hub_errors(repo):
        snapshot = Path(api.snapshot_download(repo, revision=head, allow_patterns=[*names, *tests]))
    headers = []
    for path in (snapshot / name for name in names):
        # another file of the repository must not stop the push: it is left out of the card
        with suppress(VectorError):
            header = _read_judged(path)
            headers += [header] if header.trait == path.stem else []
    return headers
