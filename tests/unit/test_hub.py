"""Pushing to the hub and pulling from it: exactly the sent files arrive."""

from __future__ import annotations

import json
import re
import socket
import threading

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from safetensors.numpy import save

from tests.hub_server import TOKEN, Answer, lfs_hash, open_hub
from traitcli.config import Config
from traitcli.errors import TraitError, VectorError
from traitcli.records import ClassStats, TraitVector
from traitcli.vector_quality import VectorQuality
from traitcli.vectors.files import read_vector, write_vector
from traitcli.vectors.hub.pull import Pulled, Source, pull_vectors
from traitcli.vectors.hub.push import push_vectors

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
"""Warnings of httpx2 about the way in which huggingface_hub uploads large files."""

REPO = "org/vectors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub for huggingface_hub, with a valid token and an empty cache."""
    with open_hub() as server:
        point_to(server.url, tmp_path / "cache", monkeypatch)
        yield server
    from huggingface_hub import close_session

    close_session()


def point_to(url, cache, monkeypatch):
    """The environment of a command; huggingface_hub reads it at its import."""
    from huggingface_hub import close_session, constants

    close_session()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    # Its servers are not available here.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))


@pytest.fixture
def offline(monkeypatch):
    """Returns a function that takes the hub offline."""
    from huggingface_hub import constants

    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def make_vector(trait="evil", seed=0, model="tiny", **quality):
    numbers = np.random.default_rng(seed)
    return TraitVector(
        trait=trait,
        model=model,
        method="mean_difference",
        layer=2,
        directions={"response_avg": numbers.normal(size=(4, 8)).astype(np.float32)},
        stats={"response_avg": ClassStats(*numbers.normal(size=(4, 4)).astype(np.float32))},
        quality=VectorQuality(
            **{
                "position": "response_avg",
                "auroc": 0.9,
                "neutral_auroc": 0.8,
                "neutral_auroc_low": 0.7,
                **quality,
            }
        ),
        provenance={"run_settings": {"model.id": "org/tiny"}, "versions": {"traitcli": "0.1.0"}},
    )


def in_card(readme):
    """The traits that a card calls shown."""
    return re.findall(r"^\| (\w+) \| reads its own texts", readme.decode(), re.MULTILINE)


@pytest.fixture
def write_vectors(tmp_path):
    """Returns a function that writes vectors to a folder and returns their files."""
    return lambda *vectors: [write_vector(tmp_path / "mine", vector) for vector in vectors]


@pytest.fixture
def other_config(tmp_path):
    """The config of another user who pulls."""
    return Config.model_validate(
        {"model": {"id": "org/Tiny"}, "paths": {"vectors": tmp_path / "theirs"}}
    )


@pytest.fixture
def folder(other_config):
    """The folder of their vectors."""
    return other_config.paths.vectors / "tiny"


def bytes_of(tmp_path, vector):
    return write_vector(tmp_path / "made", vector).read_bytes()


def pull(config, source=REPO, *names, **options):
    return pull_vectors(config, Source.parse(source), names, **options)


def fault_in(kind, call, *arguments, **more):
    """Return the error of a call; its type must be exactly this one."""
    with pytest.raises(TraitError) as caught:
        call(*arguments, **more)
    assert type(caught.value) is kind
    return caught.value


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


# push


def test_a_pull_returns_exactly_what_was_pushed(hub, write_vectors, other_config, folder):
    evil, refusal = write_vectors(make_vector("evil"), make_vector("refusal", seed=1))

    pushed = push_vectors([evil, refusal], REPO)
    pulled = pull(other_config)

    assert pulled == Pulled(
        REPO, pushed.commit, (folder / "evil.safetensors", folder / "refusal.safetensors")
    )
    assert [path.read_bytes() for path in pulled.paths] == [evil.read_bytes(), refusal.read_bytes()]
    np.testing.assert_array_equal(
        read_vector(pulled.paths[0]).directions["response_avg"],
        make_vector("evil").directions["response_avg"],
    )


def test_a_push_makes_one_commit_of_vectors_tensors_and_card(hub, write_vectors):
    pushed = push_vectors(write_vectors(make_vector("evil"), make_vector("refusal")), REPO)

    made = hub.repos[REPO]
    assert made.messages == ["by hand", "Vectors of 'tiny': evil, refusal"]
    assert (pushed.commit, pushed.url, pushed.changed) == (
        made.head,
        f"{hub.url}/{REPO}/tree/{made.head}",
        True,
    )
    assert sorted(made.files) == [
        ".gitattributes",
        "README.md",
        "evil.safetensors",
        "evil_response_avg_diff.pt",
        "refusal.safetensors",
        "refusal_response_avg_diff.pt",
    ]


def test_the_card_of_a_repository_describes_its_vectors(hub, write_vectors):
    push_vectors(
        write_vectors(make_vector("evil"), make_vector("refusal", neutral_auroc=None, null_p=0.5)),
        REPO,
    )

    card = hub.repos[REPO].files["README.md"].decode()
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "org/tiny"
    assert "| evil | reads its own texts | 2 | 0.90 | 0.80 |" in card
    assert "| refusal | not shown | 2 | 0.90 | – |" in card
    assert f"--pull {REPO}@REVISION" in card


def test_the_same_push_again_makes_no_commit(hub, write_vectors):
    vectors = write_vectors(make_vector())
    first = push_vectors(vectors, REPO)

    second = push_vectors(vectors, REPO)

    assert (second.commit, second.changed) == (first.commit, False)
    assert len(hub.repos[REPO].commits) == 2


def test_existing_vectors_are_kept_and_are_in_the_card(hub, write_vectors):
    evil, refusal = write_vectors(make_vector("evil"), make_vector("refusal"))
    push_vectors([evil], REPO)

    push_vectors([refusal], REPO)

    files = hub.repos[REPO].files
    assert files["evil.safetensors"] == evil.read_bytes()
    assert in_card(files["README.md"]) == [
        "evil",
        "refusal",
    ]


def test_a_push_keeps_other_files_and_leaves_them_out_of_the_card(hub, write_vectors, tmp_path):
    strange = {
        "other.safetensors": b"garbage",
        "one.safetensors": bytes_of(tmp_path, make_vector("two")),
    }
    hub.add_repo(REPO, strange)

    push_vectors(write_vectors(make_vector()), REPO)

    files = hub.repos[REPO].files
    assert {name: files[name] for name in strange} == strange
    assert in_card(files["README.md"]) == ["evil"]


def test_a_push_keeps_the_license_and_notes_of_the_owner(hub, write_vectors):
    push_vectors(write_vectors(make_vector()), REPO)
    card = (
        hub.repos[REPO].files["README.md"].replace(b"library_name", b"license: mit\nlibrary_name")
        + b"\nNotes.\n"
    )
    hub.repos[REPO].add({"README.md": card})

    push_vectors(write_vectors(make_vector("refusal")), REPO)

    card = hub.repos[REPO].files["README.md"].decode()
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "mit"
    assert card.endswith("\n\nNotes.\n")


def test_a_repository_without_vectors_is_not_pushed_to(hub, write_vectors):
    hub.add_repo(REPO, {"README.md": b"# My model\n", "model.safetensors": b"weights"})

    error = fault_in(VectorError, push_vectors, write_vectors(make_vector()), REPO)

    assert error.problem == f"{REPO} is not a repository of vectors"
    assert len(hub.repos[REPO].commits) == 1


def test_a_repository_contains_vectors_of_one_model_only(hub, write_vectors):
    push_vectors(write_vectors(make_vector("refusal", model="large")), REPO)

    error = fault_in(VectorError, push_vectors, write_vectors(make_vector("evil")), REPO)

    assert (error.problem, error.cause) == (
        f"{REPO} holds vectors of another model",
        "they are for 'large', and yours are for 'tiny'",
    )


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_is_created_with_the_requested_visibility(hub, write_vectors, private):
    push_vectors(write_vectors(make_vector()), REPO, private=private)

    assert hub.repos[REPO].private is private


def test_a_private_push_to_a_public_repository_is_refused(hub, write_vectors):
    hub.add_repo(REPO, {})

    error = fault_in(VectorError, push_vectors, write_vectors(make_vector()), REPO, private=True)

    assert error.problem == f"{REPO} is public"
    assert hub.asked("commit/main|lfs") == []


def test_a_push_after_another_concurrent_push_is_refused(hub, write_vectors):
    hub.watch = lambda asked: hub.repos[REPO].add({"x": b"1"}) if "preupload" in asked else None

    error = fault_in(TraitError, push_vectors, write_vectors(make_vector()), REPO)

    assert (error.problem, error.fix) == (
        f"{REPO} changed during the push",
        "run the same command again",
    )


def test_a_push_that_must_fail_is_refused_before_the_hub_is_asked(hub, write_vectors, tmp_path):
    [evil] = write_vectors(make_vector("evil"))
    renamed = evil.rename(evil.with_name("kind.safetensors"))
    broken = tmp_path / "evil.safetensors"
    broken.write_bytes(b"garbage")
    [unreal] = write_vectors(make_vector("refusal"))
    with safe_open(unreal, "numpy") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors["response_avg"][0, 0] = np.nan
    unreal.write_bytes(save(tensors, metadata))

    problems = [
        fault_in(VectorError, push_vectors, paths, REPO).problem
        for paths in ([], [renamed], [broken], [unreal], [tmp_path / "none.safetensors"])
    ]

    assert problems == [
        "nothing to push",
        f"{renamed} cannot be pushed",
        f"{broken} is not a trait vector",
        f"{unreal} is not a trait vector",
        f"no vector file {tmp_path}/none.safetensors",
    ]
    assert hub.requests == []


def test_vectors_of_two_models_are_not_pushed_together(hub, write_vectors):
    vectors = write_vectors(make_vector("evil"), make_vector("refusal", model="large"))

    error = fault_in(VectorError, push_vectors, vectors, REPO)

    assert (error.problem, error.cause) == (
        "cannot push vectors of several models",
        "'large', 'tiny'",
    )


@pytest.mark.parametrize(
    "name",
    [
        "",
        "name",
        "a/b/c",
        "../x",
        "org/../x",
        "org/na me",
        "org/x.git",
        "https://huggingface.co/org/x",
        "a/b@c",
    ],
)
def test_a_name_that_is_not_a_repository_is_refused(hub, write_vectors, name):
    error = fault_in(VectorError, push_vectors, write_vectors(make_vector()), name)

    assert error.problem == f"{name!a} does not name a repository on the hub"
    assert hub.requests == []


def test_offline_nothing_is_pushed(hub, write_vectors, offline):
    offline()

    error = fault_in(VectorError, push_vectors, write_vectors(make_vector()), REPO)

    assert (error.problem, error.cause) == (f"cannot push to {REPO}", "HF_HUB_OFFLINE is set")
    assert hub.requests == []


# pull


def test_a_pinned_revision_gives_the_old_vectors_after_a_new_push(hub, write_vectors, other_config):
    old = push_vectors(write_vectors(make_vector(seed=1)), REPO)
    content = hub.repos[REPO].files["evil.safetensors"]
    push_vectors(write_vectors(make_vector(seed=2)), REPO)

    pulled = pull(other_config, f"{REPO}@{old.commit}")

    assert pulled.commit == old.commit
    assert pulled.paths[0].read_bytes() == content


def test_a_tag_is_a_revision_too_and_is_resolved_to_its_commit(hub, write_vectors, other_config):
    old = push_vectors(write_vectors(make_vector(seed=1)), REPO)
    hub.repos[REPO].tags["v1"] = old.commit
    push_vectors(write_vectors(make_vector(seed=2)), REPO)

    assert pull(other_config, f"{REPO}@v1").commit == old.commit


def test_a_push_in_the_midst_of_a_pull_mixes_nothing(hub, write_vectors, other_config, tmp_path):
    old = push_vectors(write_vectors(make_vector(seed=1)), REPO)
    content = hub.repos[REPO].files["evil.safetensors"]
    newer = {"evil.safetensors": bytes_of(tmp_path, make_vector(seed=2))}
    hub.watch = lambda asked: hub.repos[REPO].add(newer) if "/tree/" in asked else None

    pulled = pull(other_config)

    assert (pulled.commit, pulled.paths[0].read_bytes()) == (old.commit, content)


def test_the_origin_of_pulled_vectors_is_stored_next_to_them(
    hub, write_vectors, other_config, folder
):
    [evil] = write_vectors(make_vector())
    pushed = push_vectors([evil], REPO)

    pull(other_config)

    origin = {"repo": REPO, "commit": pushed.commit, "sha256": lfs_hash(evil.read_bytes())}
    assert json.loads((folder / "pulled.json").read_text()) == {"evil": origin}


def test_only_named_vectors_are_fetched(hub, write_vectors, other_config, folder):
    push_vectors(write_vectors(make_vector("evil"), make_vector("refusal")), REPO)

    pull(other_config, REPO, "refusal")

    assert sorted(files_in(folder)) == ["pulled.json", "refusal.safetensors"]
    assert hub.asked("resolve/.*evil") == []


def test_a_missing_vector_is_reported_with_those_that_exist(hub, write_vectors, other_config):
    push_vectors(write_vectors(make_vector("evil"), make_vector("refusal")), REPO)

    error = fault_in(VectorError, pull, other_config, REPO, "refusel")

    assert str(error) == (
        f"error: no vector of refusel in {REPO}\n"
        "cause: it holds evil, refusal\n"
        "fix:   did you mean refusal?"
    )


def test_your_own_vector_is_never_replaced(hub, write_vectors, other_config, folder):
    push_vectors(write_vectors(make_vector("evil"), make_vector("refusal")), REPO)
    own = write_vector(folder, make_vector("refusal", seed=9))
    before = files_in(folder)

    error = fault_in(VectorError, pull, other_config)

    assert error.problem == f"a pull would replace {own}"
    assert files_in(folder) == before


def test_an_identical_vector_does_not_stop_a_pull(hub, write_vectors, other_config, folder):
    push_vectors(write_vectors(make_vector()), REPO)
    write_vector(folder, make_vector())

    assert pull(other_config).paths == (folder / "evil.safetensors",)


def test_a_pulled_vector_is_replaced_by_a_newer_one(hub, write_vectors, other_config):
    push_vectors(write_vectors(make_vector(seed=1)), REPO)
    pull(other_config)
    [newer] = write_vectors(make_vector(seed=2))
    push_vectors([newer], REPO)

    assert pull(other_config).paths[0].read_bytes() == newer.read_bytes()


@pytest.mark.parametrize("record", ['{"evil": {"sha256": "0"}}', "[]", '{"evil": 1}', "garbage"])
def test_a_pulled_vector_that_was_rebuilt_since_is_never_replaced(
    hub, write_vectors, other_config, folder, record
):
    push_vectors(write_vectors(make_vector(seed=1)), REPO)
    write_vector(folder, make_vector(seed=9))
    (folder / "pulled.json").write_text(record)

    assert (
        fault_in(VectorError, pull, other_config).problem
        == f"a pull would replace {folder}/evil.safetensors"
    )


@pytest.mark.parametrize(
    "name",
    [
        "../evil.safetensors",
        "..\\evil.safetensors",
        "/tmp/evil.safetensors",
        "a/evil.safetensors",
        "evil.safetensors/evil.safetensors",
        ".evil.safetensors",
        "e vil.safetensors",
        "e\nvil.safetensors",
        "\u202eevil.safetensors",
        "evil.safetensors.exe",
    ],
)
def test_only_files_with_plain_names_are_read(hub, other_config, tmp_path, folder, name):
    hub.add_repo(
        REPO,
        {
            name: bytes_of(tmp_path, make_vector()),
            "kind.safetensors": bytes_of(tmp_path, make_vector("kind")),
        },
    )

    pull(other_config)

    assert sorted(files_in(folder)) == ["kind.safetensors", "pulled.json"]
    assert hub.asked("resolve/.*evil") == []


def test_a_repository_without_vectors_is_refused(hub, other_config):
    hub.add_repo(REPO, {"model.bin": b"weights"})

    assert fault_in(VectorError, pull, other_config).problem == f"no vectors in {REPO}"


def test_a_huge_file_is_refused_before_it_is_fetched(hub, other_config, tmp_path, folder):
    hub.add_repo(REPO, {"evil.safetensors": bytes_of(tmp_path, make_vector())})
    hub.sizes["evil.safetensors"] = 2**28 + 1

    error = fault_in(VectorError, pull, other_config)

    assert error.problem == f"evil.safetensors in {REPO} is too large"
    assert hub.asked("resolve") == []


def test_many_large_files_are_refused_before_they_are_fetched(hub, other_config):
    names = [f"t{number}.safetensors" for number in range(9)]
    hub.add_repo(REPO, dict.fromkeys(names, b""))
    hub.sizes = dict.fromkeys(names, 2**28)

    error = fault_in(VectorError, pull, other_config)

    assert error.problem == f"the vectors in {REPO} are too large"
    assert hub.asked("resolve") == []


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"\xff" * 4000, save({"weight": np.zeros(3, np.float32)})]
)
def test_one_file_that_is_not_a_vector_stops_the_whole_pull(
    hub, other_config, tmp_path, folder, content
):
    hub.add_repo(
        REPO, {"evil.safetensors": bytes_of(tmp_path, make_vector()), "kind.safetensors": content}
    )

    error = fault_in(VectorError, pull, other_config)

    assert error.problem == f"kind.safetensors in {REPO} is not a trait vector"
    assert files_in(folder) == {}


@pytest.mark.parametrize(
    ("vector", "problem", "cause"),
    [
        (
            make_vector(model="../up"),
            "is for another model",
            "it is for '../up', and the config's model is tiny",
        ),
        (make_vector("kind"), "does not match its file name", "its trait is 'kind'"),
    ],
)
def test_a_vector_of_another_model_or_trait_is_refused(
    hub, other_config, tmp_path, folder, vector, problem, cause
):
    hub.add_repo(REPO, {"evil.safetensors": bytes_of(tmp_path, vector)})

    error = fault_in(VectorError, pull, other_config)

    assert (error.problem, error.cause) == (f"evil.safetensors in {REPO} {problem}", cause)
    assert files_in(folder) == {}


def test_content_with_a_wrong_hash_is_refused_and_removed_from_the_cache(
    hub, other_config, tmp_path, folder
):
    right, wrong = (bytes_of(tmp_path, make_vector(seed=seed)) for seed in (1, 2))
    hub.add_repo(REPO, {"evil.safetensors": right})
    hub.served["evil.safetensors"] = wrong

    error = fault_in(VectorError, pull, other_config)

    assert error.problem == f"evil.safetensors in {REPO} arrived damaged"
    assert files_in(folder) == {}
    hub.served.clear()
    assert pull(other_config).paths[0].read_bytes() == right


def test_a_file_that_ends_early_is_refused(hub, other_config, tmp_path, folder):
    content = bytes_of(tmp_path, make_vector())
    hub.add_repo(REPO, {"evil.safetensors": content})
    hub.served["evil.safetensors"] = content[:-100]

    error = fault_in(TraitError, pull, other_config)

    assert error.problem == f"the request to {REPO} failed"
    assert files_in(folder) == {}


@pytest.mark.parametrize("sha", ["", "main", "../../../x", COMMIT[:-1], f"{COMMIT}\x1b[31m"])
def test_a_commit_that_is_not_a_hash_is_refused(hub, other_config, sha):
    body = json.dumps({"id": REPO, "sha": sha, "tags": [], "siblings": []}).encode()
    hub.faults["GET /api/models/[^/]+/[^/]+$"] = Answer(
        200, {"Content-Type": "application/json"}, body
    )

    assert fault_in(VectorError, pull, other_config).problem == f"no commit of {REPO}"


@pytest.mark.parametrize(
    "source",
    ["name", "org/name@", "org/name@..", "org/name@a/../b", "org/name@-x", "org/name@a@b", "@"],
)
def test_a_source_that_is_not_a_repository_is_refused(source):
    error = fault_in(VectorError, Source.parse, source)

    assert error.problem == f"{source!a} does not name a repository on the hub"


# without a connection


@pytest.mark.parametrize("revision", ["", "@main", "@COMMIT"])
def test_offline_an_earlier_pull_is_repeated_from_the_cache(
    hub, write_vectors, other_config, folder, offline, revision
):
    pushed = push_vectors(write_vectors(make_vector()), REPO)
    [first] = pull(other_config).paths
    content = first.read_bytes()
    first.unlink()
    asked = len(hub.requests)
    offline()

    pulled = pull(other_config, f"{REPO}{revision.replace('COMMIT', pushed.commit)}")

    assert (pulled.commit, first.read_bytes()) == (pushed.commit, content)
    assert len(hub.requests) == asked


@pytest.mark.parametrize("revision", ["main", "v2", COMMIT])
def test_offline_a_revision_that_is_not_cached_is_refused(hub, other_config, offline, revision):
    offline()

    error = fault_in(VectorError, pull, other_config, f"{REPO}@{revision}")

    assert str(error) == (
        f"error: {revision} of {REPO} is not in the local cache\n"
        "cause: HF_HUB_OFFLINE is set, so nothing is fetched\n"
        "fix:   unset HF_HUB_OFFLINE, or name a revision that was pulled before"
    )


@pytest.mark.parametrize("password", ["", "me:secret@"])
def test_an_unreachable_hub_is_named_without_its_password(
    other_config, tmp_path, monkeypatch, password
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    point_to(f"http://{password}{address}", tmp_path / "cache", monkeypatch)

    error = fault_in(TraitError, pull, other_config)

    assert error.problem == f"http://{address} cannot be reached"
    assert "secret" not in str(error)


@pytest.mark.parametrize("call", ["push", "pull"])
def test_a_hub_that_does_not_reply_times_out(hub, write_vectors, other_config, call):
    over = threading.Event()
    hub.watch = lambda asked: over.wait(5) and None

    error = fault_in(
        TraitError,
        *(
            (push_vectors, write_vectors(make_vector()), REPO)
            if call == "push"
            else (pull, other_config)
        ),
        idle_timeout=0.1,
    )

    over.set()
    assert error.problem == f"{hub.url} does not answer"


# refusals of the hub


def refusing(status, code="", message="server message"):
    body = json.dumps({"error": message}).encode()
    return Answer(
        status,
        {"Content-Type": "application/json", **({"X-Error-Code": code} if code else {})},
        body,
    )


REFUSED = [
    (refusing(401), VectorError, "the hub requires a valid token", "server message"),
    (
        refusing(403),
        VectorError,
        f"your token has no permission for this on {REPO}",
        "server message",
    ),
    (refusing(403, "GatedRepo"), VectorError, f"{REPO} is gated", "server message"),
    (
        refusing(404, "RevisionNotFound"),
        VectorError,
        f"no revision main of {REPO}",
        "server message",
    ),
    (
        refusing(404, "RepoNotFound"),
        VectorError,
        f"no repository {REPO} on the hub",
        "it does not exist, or it is private and your token cannot read it",
    ),
    (refusing(418), TraitError, f"the hub refuses {REPO}", "server message"),
    (refusing(429), TraitError, f"the hub refuses {REPO}", "server message"),
    (refusing(500), TraitError, "the hub failed", "server message"),
    (Answer(503), TraitError, "the hub failed", "status 503"),
    (Answer(200, {}, b"<html>"), TraitError, f"the request to {REPO} failed", None),
]


@pytest.mark.parametrize(("answer", "kind", "problem", "cause"), REFUSED)
def test_an_error_of_the_hub_is_explained(hub, other_config, answer, kind, problem, cause):
    hub.faults["GET /api/models/"] = answer

    error = fault_in(kind, pull, other_config)

    assert (error.problem, error.cause) == (problem, cause or error.cause)
    assert error.fix


@pytest.mark.parametrize(
    ("where", "answer", "kind", "problem"),
    [
        ("POST /api/repos/create", refusing(401), VectorError, "the hub requires a valid token"),
        (
            "POST /api/repos/create",
            refusing(403),
            VectorError,
            f"your token has no permission for this on {REPO}",
        ),
        (
            "POST .*/preupload/",
            refusing(403),
            VectorError,
            f"your token has no permission for this on {REPO}",
        ),
        (
            "PUT /lfs/",
            refusing(403),
            VectorError,
            f"your token has no permission for this on {REPO}",
        ),
        ("POST .*/commit/", refusing(500), TraitError, "the hub failed"),
        (
            "POST .*/commit/",
            Answer(200, {}, b"<html>"),
            TraitError,
            f"the request to {REPO} failed",
        ),
    ],
)
def test_a_push_that_the_hub_refuses_makes_no_commit(
    hub, write_vectors, where, answer, kind, problem
):
    hub.faults[where] = answer

    error = fault_in(kind, push_vectors, write_vectors(make_vector()), REPO)

    assert error.problem == problem
    assert [message for repo in hub.repos.values() for message in repo.messages] in (
        [],
        ["by hand"],
    )


def test_a_private_repository_is_not_seen_without_the_token(
    hub, write_vectors, other_config, monkeypatch
):
    push_vectors(write_vectors(make_vector()), REPO, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_somebodyelses")

    assert fault_in(VectorError, pull, other_config).problem == f"no repository {REPO} on the hub"


# the token


def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub, write_vectors, other_config, tmp_path, capfd, caplog
):
    push_vectors(write_vectors(make_vector()), REPO, private=True)
    pull(other_config)

    asked = [(path, token) for _, path, token in hub.requests if REPO in path or "create" in path]
    assert {token for _, token in asked} == {f"Bearer {TOKEN}"}
    kept = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and TOKEN.encode() in path.read_bytes()
    ]
    assert kept == []
    assert [
        path for path, content in hub.repos[REPO].files.items() if TOKEN.encode() in content
    ] == []
    assert TOKEN not in "".join(capfd.readouterr()) + caplog.text


def test_server_messages_are_shown_without_tokens_and_control_characters(hub, other_config):
    hub.faults["GET /api/models/"] = refusing(
        403, message=f"Bearer {TOKEN}\n\x1b[31mred\u202e {'x' * 500}"
    )

    error = fault_in(VectorError, pull, other_config)

    assert error.cause.startswith("Bearer hf_… [31mred xxx")
    assert len(error.cause) == 200
