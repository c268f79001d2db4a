"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flywheel.errors import ConfigError, StoreError
from flywheel.run_folder import check_place, write_whole


@contextmanager
def room_for(num_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_where_there_is_no_room_the_file_stays_what_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    write_whole(out, "of an earlier run")
    with room_for(1000), pytest.raises(StoreError, match=r"out\.json: can't be written: File too large"):
        write_whole(out, "x" * 100_000)
    assert (out.read_text(), os.listdir(tmp_path)) == ("of an earlier run", ["out.json"])


def test_a_link_stays_and_a_device_is_written_as_it_is(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old")
    link.symlink_to(file)
    write_whole(link, "new")
    assert (link.is_symlink(), file.read_text()) == (True, "new")
    with pytest.raises(StoreError, match=r"/dev/full: can't be written: No space left on device; is the disk full"):
        write_whole(Path("/dev/full"), "new")
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize("place", ["", "absent/out.json", "file/out.json"])
def test_a_place_for_no_file_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--json .*expected the path of a file in a folder"):
        check_place(tmp_path / place, "--json")
    with pytest.raises(StoreError, match="can't be written"):
        write_whole(tmp_path / place, "")
