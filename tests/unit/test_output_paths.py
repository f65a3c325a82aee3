"""Output paths that cannot be written are refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from traitcli.errors import UserError
from traitcli.output_paths import check_output_file, check_output_folder


def test_a_path_below_folders_that_do_not_exist_is_accepted_and_nothing_is_made(tmp_path):
    check_output_file(tmp_path / "new" / "x.json")
    check_output_folder(tmp_path / "new")

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_accepted_and_kept(tmp_path):
    (tmp_path / "x.jsonl").write_text("kept")

    check_output_file(tmp_path / "x.jsonl")

    assert (tmp_path / "x.jsonl").read_text() == "kept"


@pytest.mark.parametrize("name", ["file/x.json", "file/deep/x.json"])
@pytest.mark.parametrize("check", [check_output_file, check_output_folder])
def test_a_path_below_a_file_names_the_file(tmp_path, check, name):
    (tmp_path / "file").touch()

    with pytest.raises(UserError) as error:
        check(tmp_path / name)

    assert error.value.problem == f"cannot write to {tmp_path / name}"
    assert error.value.cause == f"{tmp_path}/file is not a folder"


def test_a_folder_is_no_output_file(tmp_path):
    with pytest.raises(UserError) as error:
        check_output_file(tmp_path, "--save")

    assert str(error.value) == (
        f"error: cannot write to {tmp_path}\n"
        f"cause: {tmp_path} is a folder\n"
        "fix:   name a file with --save"
    )


def test_a_device_is_no_output_file():
    with pytest.raises(UserError, match="cannot write to /dev/null"):
        check_output_file(Path("/dev/null"))


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    # Tests may run as root, for whom no folder is closed.
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)

    with pytest.raises(UserError) as error:
        check_output_folder(tmp_path)

    assert error.value.cause == f"no file can be made in {tmp_path}: Permission denied"
