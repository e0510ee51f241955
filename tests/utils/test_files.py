import os
import stat

import pytest

from pyro_ext.utils.files import check_folder, replacing, write_text


def test_what_was_there_stays_where_writing_fails(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "before")
    with pytest.raises(TypeError), replacing(path) as partial:
        partial.write_text(3)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]


def test_a_new_file_appears_whole_with_usual_rights(tmp_path):
    path = tmp_path / "new.txt"
    with replacing(path) as partial:
        partial.write_text("all")
        assert partial.suffix == ".txt"
        assert not path.exists()
    mask = os.umask(0)
    os.umask(mask)
    assert path.read_text() == "all"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_text_is_utf8_with_plain_newlines(tmp_path):
    write_text(tmp_path / "greek.md", "λ\n")
    assert (tmp_path / "greek.md").read_bytes() == "λ\n".encode()


def test_a_folder_is_checked_without_a_trace(tmp_path):
    assert check_folder("out", tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not [*tmp_path.iterdir()]
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"out=.*file' is a file; choose another path"):
        check_folder("out", tmp_path / "file" / "below")
