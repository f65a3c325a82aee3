"""The notebooks of docs/notebooks run from top to bottom, and hold nothing of this machine."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TIMEOUT_S = 300
"""For one cell: the first one loads the model."""

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_two_notebooks():
    names = ["make-and-trust-a-vector", "watch-and-steer"]

    assert [path.stem for path in NOTEBOOKS] == names


@each_notebook
def test_a_notebook_is_valid_and_has_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)

    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in cells if cell.outputs or cell.execution_count is not None] == []
    assert {*notebook.metadata} == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"


@each_notebook
def test_a_notebook_links_to_files_that_exist(path):
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text)

    assert targets
    assert [one for one in targets if not (path.parent / one).exists()] == []


@each_notebook
def test_a_notebook_has_short_lines(path):
    notebook = nbformat.read(path, as_version=4)

    lines = [line for cell in notebook.cells for line in cell.source.splitlines()]

    assert [line for line in lines if len(line) > 100] == []


@pytest.fixture
def executed(path, tmp_path, monkeypatch):
    """The notebook after its cells ran in an empty folder; a cell that raises fails the test."""
    # One thread, as in all tests, and no files in the home folder.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        own = tmp_path / name.lower()
        own.mkdir()
        monkeypatch.setenv(name, str(own))
    folder = tmp_path / "work"
    folder.mkdir()
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


def shown(cell, kind):
    """What a cell shows of one MIME type, as one text."""
    found = [output.data.get(kind, "") for output in cell.outputs if "data" in output]
    return "".join(found)


@pytest.mark.slow
@each_notebook
def test_a_notebook_runs_and_shows_answers(path, executed):
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    pages = [text for cell in cells if "traitcli-answer" in (text := shown(cell, "text/html"))]
    # A value at the end of a cell is shown; loops and assignments end others.
    silent = [cell.source for cell in cells if not cell.outputs]

    assert pages
    assert all('<i style="background:' in page for page in pages)
    assert len(silent) <= 1
    # What a notebook shows, its reader may publish.
    assert str(Path.home()) not in "".join(shown(cell, "text/html") for cell in cells)
    if path.stem == "watch-and-steer":
        assert any('class="tc-hold"' in page for page in pages)
        [held] = [shown(cell, "text/plain") for cell in cells if "held.braked" in cell.source]
        assert re.fullmatch(r"\(\{'evil<=0@15': \([\d, ]+\)\}, 0\.0\)", held)
    else:
        [auroc] = [shown(cell, "text/plain") for cell in cells if cell.source.endswith("\nauroc")]
        assert float(auroc) >= 0.75
