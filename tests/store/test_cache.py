"""The cache of vectors: what it keeps, and that nothing depends on it."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from tarragon.store import cache as module
from tarragon.store.cache import VectorCache, cache_path
from tarragon.store.folder import IndexFolder
from tarragon.types import FloatArray

A, B = "a" * 32, "b" * 32


def hashed(number: int) -> bytes:
    return number.to_bytes(16, "little")


def vectors(*numbers: int, dimensions: int = 4) -> dict[bytes, FloatArray]:
    return {hashed(number): np.full(dimensions, number + 0.1, dtype=np.float32) for number in numbers}


def kept(cache: VectorCache, space: str = A, label: str = "x", upto: int = 5) -> dict[bytes, list[float]]:
    found = cache.of(space, label).vectors_of([hashed(number) for number in range(upto)])
    assert cache.of(space, label).having([hashed(number) for number in range(upto)]) == set(found)
    return {hash_: vector.tolist() for hash_, vector in found.items()}


def as_lists(rows: dict[bytes, FloatArray]) -> dict[bytes, list[float]]:
    return {hash_: vector.tolist() for hash_, vector in rows.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "cache.sqlite"


@pytest.fixture
def cache(path: Path) -> VectorCache:
    return VectorCache(path)


# --- keeping ----------------------------------------------------------------------------------------------------------
def test_what_is_kept_is_found_by_another_handle_bit_by_bit(cache: VectorCache, path: Path) -> None:
    row = np.array([np.float32(1e-38), -0.0, 1 / 3, 3e38], dtype=np.float32)
    cache.keep(A, {hashed(1): row}, label="x")
    found = VectorCache(path).of(A, "x").vectors_of([hashed(1), hashed(2)])
    assert list(found) == [hashed(1)]
    assert found[hashed(1)].tobytes() == row.tobytes()
    assert found[hashed(1)].dtype == np.float32
    assert found[hashed(1)].flags.writeable


def test_no_file_is_made_before_something_is_kept(cache: VectorCache, path: Path) -> None:
    assert (kept(cache), cache.label(A), cache.spaces()) == ({}, None, [])
    cache.keep(A, {}, label="x")
    cache.clear(A)
    cache.clear()
    assert not path.parent.exists()


def test_only_its_owner_may_read_it(cache: VectorCache, path: Path) -> None:
    cache.keep(A, vectors(1), label="x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["cache.sqlite"]


def test_spaces_are_apart(cache: VectorCache) -> None:
    cache.keep(A, vectors(1, 2), label="x")
    cache.keep(B, {hashed(1): np.zeros(7, dtype=np.float32)}, label="y")
    assert cache.spaces() == [A, B]
    assert kept(cache, A) == as_lists(vectors(1, 2))
    assert kept(cache, B, "y") == {hashed(1): [0.0] * 7}


def test_more_than_one_page_of_hashes(cache: VectorCache) -> None:
    cache.keep(A, vectors(*range(1_203)), label="x")
    assert len(kept(cache, upto=1_300)) == 1_203


def test_one_space_never_holds_vectors_of_two_runtimes(cache: VectorCache) -> None:
    cache.keep(A, vectors(1, 2), label="x")
    cache.keep(B, vectors(1), label="x")
    assert kept(cache, A, "other") == {}
    cache.keep(A, vectors(3), label="other")
    assert (kept(cache, A), kept(cache, A, "other")) == ({}, as_lists(vectors(3)))
    assert cache.label(A) == "other"
    cache.keep(A, {hashed(4): np.zeros(9, dtype=np.float32)}, label="other")
    assert list(kept(cache, A, "other")) == [hashed(4)], "nor of two lengths"
    assert kept(cache, B) == as_lists(vectors(1))


def test_clearing_one_space_or_all(cache: VectorCache, path: Path) -> None:
    cache.keep(A, vectors(1, 2), label="x")
    cache.keep(B, vectors(1), label="x")
    cache.clear(A)
    assert (cache.spaces(), kept(cache), kept(cache, B)) == ([B], {}, as_lists(vectors(1)))
    cache.clear(B)
    assert not path.exists(), "the last one takes the file along"
    cache.keep(A, vectors(1), label="x")
    cache.clear()
    assert not path.exists()


# --- nothing depends on it --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to look at" * 50, b"SQLite format 3\0" * 100]
)
def test_a_broken_file_is_begun_anew_and_logged(
    cache: VectorCache, path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    for use in (lambda: kept(cache), lambda: cache.keep(A, vectors(1), label="x"), lambda: cache.clear(A)):
        caplog.clear()
        path.write_bytes(content)
        use()
        assert "is broken" in caplog.text
        assert str(path) in caplog.text
    cache.keep(A, vectors(2), label="x")
    assert kept(cache) == as_lists(vectors(2))


def test_a_torn_file_is_begun_anew(cache: VectorCache, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.keep(A, vectors(*range(500), dimensions=64), label="x")
    data = path.read_bytes()
    path.write_bytes(data[:4096] + os.urandom(len(data) - 4096))
    assert kept(cache) == {}
    assert "computed again" in caplog.text
    cache.keep(A, vectors(1), label="x")
    assert kept(cache) == as_lists(vectors(1))


def test_the_file_may_go_at_any_time(cache: VectorCache, path: Path) -> None:
    cache.keep(A, vectors(1), label="x")
    path.unlink()
    assert kept(cache) == {}
    cache.keep(A, vectors(2), label="x")
    assert kept(cache) == as_lists(vectors(2))


def test_a_file_of_another_revision_or_of_somebody_else_is_begun_anew(
    cache: VectorCache, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.keep(A, vectors(1), label="x")
    with monkeypatch.context() as patch:
        patch.setattr(module, "REVISION", 7)
        assert kept(cache) == {}
        assert path.exists(), "reading leaves it to whoever reads that revision"
        path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE vectors (something TEXT)")
    db.close()
    assert kept(cache) == {}
    cache.keep(A, vectors(2), label="x")
    assert kept(cache) == as_lists(vectors(2))


def test_rows_that_cannot_be_vectors_are_passed_over(cache: VectorCache, path: Path) -> None:
    cache.keep(A, vectors(0, 1, 2, 3), label="x")
    with sqlite3.connect(path) as db:
        db.execute("UPDATE vectors SET vector = ? WHERE chunk_hash = ?", (b"\0" * 20, hashed(1)))
        db.execute("UPDATE vectors SET vector = 'abcdefghijklmnop' WHERE chunk_hash = ?", (hashed(2),))
    db.close()
    assert kept(cache) == as_lists(vectors(0, 3))
    cache.keep(A, {hashed(3): np.array([np.nan, 0, 0, 0], dtype=np.float32)}, label="x")
    assert list(cache.of(A, "x").vectors_of([hashed(0), hashed(3)])) == [hashed(0)]


def test_a_place_that_cannot_be_written_is_logged_and_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = VectorCache(tmp_path / "file" / "cache.sqlite")
    cache.keep(A, vectors(1), label="x")
    assert "cannot be used" in caplog.text
    assert kept(cache) == {}


def test_a_busy_file_is_left_alone(
    cache: VectorCache, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    cache.keep(A, vectors(1), label="x")
    with sqlite3.connect(path, isolation_level=None) as db:
        db.execute("BEGIN IMMEDIATE")
        cache.keep(A, vectors(2), label="x")
        assert "locked" in caplog.text
        assert kept(cache) == as_lists(vectors(1)), "reading goes on"
        db.execute("ROLLBACK")
    db.close()


def test_threads_share_it(
    cache: VectorCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 120.0)  # a slow disk makes writers wait for each other
    caplog.set_level(logging.WARNING)

    def work(number: int) -> None:
        for step in range(10):
            own = vectors(number * 100 + step)
            cache.keep(A, own, label="x")
            assert as_lists(dict(cache.of(A, "x").vectors_of(list(own)))) == as_lists(own)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept(cache, upto=400)) == 40
    assert caplog.text == ""


# --- where it is ------------------------------------------------------------------------------------------------------
def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_path(str(tmp_path / "i.tarragon")) == tmp_path / "i.tarragon" / "cache.sqlite"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one, two = cache_path("http://host:6333/handbook"), cache_path("http://host:6333/other")
    assert one != two
    assert one.parent == tmp_path / "cache" / "tarragon"
    assert one.suffix == ".sqlite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_path("http://host:6333/handbook") == tmp_path / "home" / ".cache" / "tarragon" / one.name


def test_a_folder_with_nothing_but_the_cache_and_the_lock_is_still_blank(tmp_path: Path) -> None:
    VectorCache(tmp_path / "cache.sqlite").keep(A, vectors(1), label="x")
    (tmp_path / "cache.sqlite-journal").touch()
    (tmp_path / "lock").touch()
    assert IndexFolder(tmp_path).serving() is None
