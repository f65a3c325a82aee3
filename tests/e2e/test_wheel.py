"""The wheel alone, without the checkout that it was built from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import traitcli
from traitcli.config import EMBEDDED, ModelConfig

CHECKOUT = Path(traitcli.__file__).parents[1]
VECTORS = f"vectors/{ModelConfig(id=EMBEDDED).name}"
FOLDERS = ("traitcli", "traits", "configs", VECTORS, "docs/examples")
FILES = ("pyproject.toml", "README.md", "LICENSE")


@dataclass(frozen=True)
class Installed:
    """An installed wheel; commands run in an empty folder."""

    target: Path
    folder: Path

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python without site: it finds the wheel and its dependencies, not the checkout."""
        path = os.pathsep.join([str(self.target), sysconfig.get_paths()["purelib"]])
        env = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
        return subprocess.run(
            [sys.executable, "-S", *arguments],
            cwd=self.folder,
            env=env
            | {"PYTHONPATH": path, "XDG_CACHE_HOME": str(self.folder.parent), "COLUMNS": "200"},
            capture_output=True,
            encoding="utf-8",
            check=True,
        )

    def run(self, *arguments: str) -> str:
        return self.python("-m", "traitcli", *arguments).stdout


def run_quietly(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A wheel built from a copy of the sources, so that the checkout is not changed."""
    build_folder = tmp_path_factory.mktemp("wheel")
    sources, target, empty = (
        build_folder / "sources",
        build_folder / "target",
        build_folder / "empty",
    )
    empty.mkdir()
    for name in FOLDERS:
        shutil.copytree(
            CHECKOUT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    for name in FILES:
        shutil.copy(CHECKOUT / name, sources / name)
    run_quietly(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(build_folder)],
        sources,
    )
    [wheel] = build_folder.glob("*.whl")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
    ]
    run_quietly(pip, build_folder)
    shutil.rmtree(sources)
    return Installed(target, empty)


def test_the_wheel_runs_without_the_checkout(installed):
    shown = installed.python(
        "-c", "import sys, traitcli; print(traitcli.__file__, *sys.path, sep='\\n')"
    ).stdout

    file, *path = shown.splitlines()
    assert file == str(installed.target / "traitcli" / "__init__.py")
    assert str(CHECKOUT) not in path


def test_the_wheel_has_the_command(installed):
    assert (installed.target / "bin" / "traitcli").is_file()
    assert "Usage: python -m traitcli [OPTIONS] COMMAND [ARGS]..." in installed.run("--help")


def test_the_wheel_contains_the_traits(installed):
    shown = installed.run("inspect", "traits")

    for path in (CHECKOUT / "traits").glob("*.yaml"):
        assert str(installed.target / "traitcli" / "shipped" / "traits" / path.name) in shown


def test_the_wheel_contains_the_configs(installed):
    listed = installed.python(
        "-c", "from traitcli.config import load_config; print(load_config('demo').model.name)"
    )

    shipped, own = installed.target / "traitcli" / "shipped" / "configs", CHECKOUT / "configs"
    assert {path.relative_to(shipped) for path in shipped.rglob("*.yaml")} == {
        path.relative_to(own) for path in own.rglob("*.yaml")
    }
    assert listed.stdout == "smollm2-135m-instruct\n"


def test_the_wheel_contains_the_vectors_of_the_embedded_model(installed):
    names = sorted(path.stem for path in (CHECKOUT / VECTORS).glob("*.safetensors"))
    if not names:
        pytest.skip("the checkout has no vectors of the embedded model yet")

    rows = json.loads(installed.run("inspect", "vectors", "--json"))

    shipped = installed.target / "traitcli" / "shipped" / VECTORS
    assert [(row["trait"], row["path"]) for row in rows] == [
        (n, str(shipped / f"{n}.safetensors")) for n in names
    ]


def test_the_wheel_contains_the_style_scripts_and_chart_license_of_the_report(installed):
    page = installed.folder / installed.run("report", "--out", "page.html").strip()

    text = page.read_text(encoding="utf-8")
    assert (CHECKOUT / "traitcli/views/report/uplot/LICENSE").read_text(
        encoding="utf-8"
    ).strip() in text
    for name in ("report.css", "report.js", "uplot/uplot.min.js"):
        assert (CHECKOUT / "traitcli/views/report" / name).read_text(encoding="utf-8") in text
    licences = list(installed.target.glob("traitcli-*.dist-info/licenses/**/LICENSE"))
    assert len(licences) == 2


def test_the_wheel_contains_the_template_of_the_vector_card(installed):
    own = Path("traitcli/vectors/hub/card.md.j2")

    assert (installed.target / own).read_bytes() == (CHECKOUT / own).read_bytes()
