"""Only regular files are opened, whatever a name leads to."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from src.files.regular_file import IrregularFile, open_regular, read_regular

LIMIT = 1000


def make_irregular(folder: Path) -> dict[str, Path]:
    """Return paths that are no regular files, by what they are."""
    found = {name: folder / name for name in ("fifo", "socket", "folder", "linked fifo", "linked device")}
    os.mkfifo(found["fifo"])
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(found["socket"]))
    found["folder"].mkdir()
    found["linked fifo"].symlink_to(found["fifo"])
    found["linked device"].symlink_to("/dev/zero")
    return {**found, "device": Path("/dev/zero")}


@pytest.mark.parametrize("mode", ["rb", "a+b"])
def test_a_file_that_is_not_regular_is_named_with_its_kind_and_the_fix(tmp_path, mode):
    for name, path in make_irregular(tmp_path).items():
        with pytest.raises(IrregularFile) as error:
            open_regular(path, mode)
        assert str(error.value).startswith(f"{path} is a ")
        assert name.split()[-1] in error.value.reason.lower()
        assert str(error.value).endswith("; give a regular file")


def test_a_file_above_the_limit_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "sparse"
    path.write_bytes(b"x" * LIMIT)
    assert len(read_regular(path, LIMIT)) == LIMIT
    os.truncate(path, 2**40)
    with pytest.raises(IrregularFile, match=r"sparse is larger than 0\.001 MB; give a smaller file"):
        read_regular(path, LIMIT)
    with pytest.raises(IrregularFile, match=r"is larger than 1e-05 MB"):
        read_regular("/proc/self/maps", 10)  # its size is 0


def test_a_link_is_refused_where_links_are_not_followed(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"precious")
    link.symlink_to(path)
    assert read_regular(link, LIMIT) == b"precious"
    for mode in ("rb", "a+b"):
        with pytest.raises(IrregularFile, match="link is a symbolic link"):
            open_regular(link, mode, follow=False)
    assert path.read_bytes() == b"precious"


def test_a_file_that_becomes_a_fifo_between_check_and_opening_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    regular = os.stat(__file__)
    monkeypatch.setattr(os, "stat", lambda name, **options: regular)
    with pytest.raises(IrregularFile, match="named pipe"):
        open_regular(path)


def test_a_missing_file_is_made_to_append_and_is_an_error_to_read(tmp_path):
    with open_regular(tmp_path / "new", "a+b", follow=False) as file:
        file.write(b"begun")
    with open_regular(tmp_path / "new", "a+b", follow=False) as file:
        file.write(b", continued")
    assert read_regular(tmp_path / "new", LIMIT) == b"begun, continued"
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "missing")
