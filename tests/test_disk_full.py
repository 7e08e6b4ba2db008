"""A disk that really is full, in the middle of a write: a small file system of its own, filled between two steps."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from handbook import version_of

from tarragon import Document, Index
from tarragon.testing import WordEncoder

SCRIPT = """
    import os, sys
    from pathlib import Path
    from test_disk_full import documents
    from tarragon import Index
    from tarragon.errors import DiskFull
    from tarragon.store.folder import IndexFolder
    from tarragon.testing import WordEncoder

    disk, windows = Path(sys.argv[1]), 0

    def fill_at_the_third(self, needed):
        global windows
        windows += 1
        if windows == 3:
            with open(disk / "filler", "wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    pass

    IndexFolder.require_room = fill_at_the_third
    with Index.open(disk / "i.tarragon", encoder=WordEncoder(384)) as index:
        try:
            index.sync(documents())
        except DiskFull as error:
            assert index.search("number three")
            sys.exit(f"DiskFull: {error}")
"""


def documents() -> list[Document]:
    return [Document(f"{n:04}", f"Document {n}. " + " ".join(f"w{n * i % 97}" for i in range(300))) for n in range(500)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 120 MB."""
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("may not mount a file system")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_full_disk_is_told_and_the_index_opens_and_answers_afterwards(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(disk)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    assert (disk / "filler").stat().st_size > 0, run.stderr
    assert run.stderr.startswith("DiskFull: ") or run.returncode < 0, run.stderr
    (disk / "filler").unlink()
    monkeypatch.setattr("tarragon.session.DISK_MARGIN", 0)
    with Index.open(disk / "i.tarragon", encoder=WordEncoder(384)) as index:
        before = index.status()
        assert 0 < before.documents < 500
        assert index.search("number three")
        report = index.sync(documents())
        assert report.documents_unchanged == before.documents
        after = index.status()
        assert (after.documents, after.unfinished) == (500, 0)
        assert len(list(version_of(index).store.ids())) == after.chunks
