"""The commands that push to the hub and pull from it, in separate processes."""

from __future__ import annotations

import shutil

import pytest

from tests.e2e.fork_server import ForkServer
from tests.hub_server import TOKEN, Answer, open_hub

REPO = "org/vectors"


@pytest.fixture(scope="module")
def only_hub():
    with open_hub() as server:
        yield server


@pytest.fixture
def hub(only_hub):
    """The hub without repositories, requests and faults."""
    for kept in (only_hub.repos, only_hub.requests, only_hub.faults):
        kept.clear()
    return only_hub


@pytest.fixture(scope="module")
def variables(only_hub, tmp_path_factory):
    """The variables that a user sets to push. Xet is off: its servers are not available here."""
    return {
        "HF_ENDPOINT": only_hub.url,
        "HF_HOME": str(tmp_path_factory.mktemp("hf")),
        "HF_HUB_OFFLINE": "",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
    }


@pytest.fixture(scope="module")
def starter(variables, command_env, tmp_path_factory):
    """Starts commands from a process that has read the variables."""
    server = ForkServer(tmp_path_factory.mktemp("fork"), command_env | variables)
    yield server
    server.close()


@pytest.fixture
def env(variables):
    """The variables, and a cache without what other tests have pulled."""
    shutil.rmtree(variables["HF_HOME"], ignore_errors=True)
    return variables


@pytest.fixture
def here(copied, starter):
    """A folder with the finished run of evil and refusal."""
    return copied.start_from(starter)


@pytest.fixture
def open_folder(open_workspace, starter):
    """Makes a new working folder."""
    return lambda: open_workspace().start_from(starter)


def vectors_of(workspace):
    return {
        path.name: path.read_bytes()
        for path in (workspace.folder / "vectors" / "model").glob("*.safetensors")
    }


def test_vectors_are_built_pushed_and_pulled_elsewhere(hub, env, here, open_folder):
    pushed = here.run("build-vector", "--push", REPO, **env)
    elsewhere = open_folder()
    pulled = elsewhere.run("inspect", "vectors", "--pull", REPO, "--json", **env)

    commit = hub.repos[REPO].head
    assert (pushed.code, pushed.out) == (0, f"{hub.url}/{REPO}/tree/{commit}\n")
    assert pushed.err.endswith(f"pushed; others get this with --pull {REPO}@{commit}\n")
    names = ["evil.safetensors", "refusal.safetensors"]
    assert (pulled.code, [row["path"] for row in pulled.json]) == (
        0,
        [f"vectors/model/{name}" for name in names],
    )
    assert pulled.err == (
        f"pulling {REPO} …\n"
        f"vectors/model/evil.safetensors is from {REPO}@{commit}\n"
        f"vectors/model/refusal.safetensors is from {REPO}@{commit}\n"
        f"warning: {REPO} may change later; pin it with --pull {REPO}@{commit}\n"
    )
    assert (
        vectors_of(elsewhere)
        == vectors_of(here)
        == {name: hub.repos[REPO].files[name] for name in names}
    )
    assert TOKEN not in pushed.out + pushed.err + pulled.out + pulled.err
    written = [
        path
        for workspace in (here, elsewhere)
        for path in workspace.folder.rglob("*")
        if path.is_file()
    ]
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []


def test_a_pinned_pull_warns_of_nothing(hub, env, here, open_folder):
    here.run("build-vector", "evil", "--push", REPO, **env)
    commit = hub.repos[REPO].head

    pulled = open_folder().run("inspect", "vectors", "--pull", f"{REPO}@{commit}", **env)

    assert pulled.code == 0
    assert "warning" not in pulled.err


def test_only_the_traits_of_the_command_are_pushed_and_only_once(hub, env, here):
    here.run("build-vector", "evil", "--push", REPO, "--private", **env)

    again = here.run("build-vector", "evil", "--push", REPO, "--private", "--json", **env)

    made = hub.repos[REPO]
    assert made.private
    assert [name for name in made.files if name.endswith(".safetensors")] == ["evil.safetensors"]
    assert len(made.commits) == 2
    assert [row["trait"] for row in again.json["vectors"]] == ["evil"]
    url = f"{hub.url}/{REPO}/tree/{made.head}"
    assert again.json["pushed"] == {"repo": REPO, "commit": made.head, "url": url, "changed": False}
    assert "nothing has changed; others get this with" in again.err


@pytest.mark.parametrize(
    ("arguments", "more", "message"),
    [
        (["--push", "vectors"], {}, "error: 'vectors' does not name a repository on the hub\n"),
        (["--private"], {}, "error: --private has no effect without --push\n"),
        (
            ["--push", REPO],
            {"HF_HUB_OFFLINE": "1"},
            f"error: cannot push to {REPO}\ncause: HF_HUB_OFFLINE is set\n",
        ),
    ],
)
def test_an_impossible_push_is_refused_before_anything_is_built(
    hub, env, here, arguments, more, message
):
    before = here.files()

    ended = here.run("build-vector", "--threshold", "60", *arguments, **env | more)

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(message)
    assert here.files() == before
    assert hub.requests == []


def test_nothing_is_pushed_when_a_trait_fails(hub, env, here):
    ended = here.run(
        "build-vector", "--set", "filter.threshold=100", "--push", REPO, "--json", **env
    )

    assert (ended.code, ended.json["pushed"]) == (1, None)
    assert f"nothing is pushed to {REPO}: there is no vector of evil, refusal\n" in ended.err
    assert hub.requests == []


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (Answer(401), 2, "error: the hub requires a valid token\n"),
        (Answer(500), 1, "error: the hub failed\n"),
    ],
)
def test_a_push_that_the_hub_refuses_ends_without_a_traceback(
    hub, env, here, answer, code, message
):
    hub.faults["POST /api/repos/create"] = answer

    ended = here.run("build-vector", "evil", "--push", REPO, **env)

    assert (ended.code, ended.out) == (code, "")
    assert f"pushing to {REPO} …\n{message}cause: status " in ended.err
    assert "Traceback" not in ended.err


def test_offline_a_pinned_pull_uses_the_cache_and_other_pulls_fail(hub, env, here, open_folder):
    here.run("build-vector", "evil", "--push", REPO, **env)
    commit = hub.repos[REPO].head
    open_folder().run("inspect", "vectors", "--pull", REPO, **env)
    asked, offline = len(hub.requests), env | {"HF_HUB_OFFLINE": "1"}

    cached = open_folder().run(
        "inspect", "vectors", "--pull", f"{REPO}@{commit}", "--json", **offline
    )
    unknown = open_folder().run("inspect", "vectors", "--pull", "org/other", **offline)

    assert [row["path"] for row in cached.json] == ["vectors/model/evil.safetensors"]
    assert (unknown.code, unknown.out) == (2, "")
    assert (
        "error: main of org/other is not in the local cache\ncause: HF_HUB_OFFLINE is set"
        in unknown.err
    )
    assert len(hub.requests) == asked
