import os
import socket
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


def special(folder):
    """What is no regular file: a folder, a FIFO, a socket, a device, and links to them."""
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as own:
        before = os.getcwd()
        os.chdir(folder)  # the names of sockets are short
        own.bind("socket")
        os.chdir(before)
    (folder / "device").symlink_to("/dev/null")
    (folder / "link").symlink_to("fifo")
    return [
        ("folder", "a folder"),
        ("fifo", "a FIFO"),
        ("socket", "a socket"),
        ("device", "a device"),
        ("link", "a FIFO"),
    ]


def test_what_is_no_regular_file_is_never_replaced(tmp_path):
    for name, kind in special(tmp_path):
        before = os.lstat(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name}' is {kind}, no regular file, which would be replaced; choose"):
            write_text(tmp_path / name, "text")
        assert os.lstat(tmp_path / name)[:3] == before[:3]
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert not [*tmp_path.glob(".*partial*")]


def test_it_is_refused_before_anything_is_done(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    entered = []
    with pytest.raises(ValueError, match="a FIFO"), replacing(tmp_path / "fifo"):
        entered.append(True)
    assert not entered

    def late():
        with replacing(tmp_path / "late") as partial:
            partial.write_text("x")
            os.mkfifo(tmp_path / "late")

    with pytest.raises(ValueError, match="a FIFO"):
        late()
    assert stat.S_ISFIFO(os.stat(tmp_path / "late").st_mode)


def test_links_stay_and_leftovers_are_not_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "own.txt")
    (tmp_path / ".own.partial.txt").symlink_to(tmp_path / "other.txt")
    (tmp_path / "other.txt").write_text("stays")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "own.txt").read_text() == "new"
    assert (tmp_path / "other.txt").read_text() == "stays"
