from __future__ import annotations

import inspect
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tarragon.errors import InvalidInput, SourceNotFound, SourceProblem, UnreadableDocument
from tarragon.protocols import Source, SourceItem
from tarragon.sources import FolderSource

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def write(root: Path, name: str, content: str | bytes = "text") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def ids(source: Source) -> list[str]:
    return [item.document_id for item in source.items()]


def only(source: Source) -> SourceItem:
    (item,) = source.items()
    return item


def refusal(item: SourceItem) -> str:
    with pytest.raises(UnreadableDocument) as caught:
        item.load()
    return str(caught.value)


@pytest.fixture
def guarded() -> Iterator[Path]:
    """A folder whose permissions bind this process, also where the tests run as root."""
    root = Path(tempfile.mkdtemp())
    was_root = os.geteuid() == 0
    if was_root:
        os.chown(root, 65534, 65534)
        try:
            os.seteuid(65534)
        except OSError:
            pytest.skip("cannot give up root")
    try:
        yield root
    finally:
        if was_root:
            os.seteuid(0)
        for folder, _, _ in os.walk(root):
            Path(folder).chmod(0o700)
        shutil.rmtree(root, ignore_errors=True)


def test_documents_have_the_text_and_format_of_their_files(tmp_path: Path) -> None:
    write(tmp_path, "guide/intro.md", "# Grüße\r\n\r\nLine  \n")
    write(tmp_path, "tool.py", "x = 1\n")
    first, second = (item.load() for item in FolderSource(tmp_path).items())
    assert (first.id, first.text, first.format) == ("guide/intro.md", "# Grüße\r\n\r\nLine  \n", "markdown")
    assert (second.id, second.text, second.format) == ("tool.py", "x = 1\n", "code")
    assert first.metadata == {}


def test_order_is_by_whole_path_and_does_not_depend_on_creation(tmp_path: Path) -> None:
    names = ["a/x.md", "a-b/x.md", "a.md", "b/c/d.md", "b/a.md", "B.md", "a b/x.md", "é.md", "z.md"]
    for name in reversed(names):
        write(tmp_path, name)
    assert ids(FolderSource(tmp_path)) == sorted(names)


def test_ids_are_nfc_and_the_second_of_a_collision_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "cafe\u0301.md", "decomposed")
    assert ids(FolderSource(tmp_path)) == ["caf\u00e9.md"]
    write(tmp_path, "caf\u00e9.md", "composed")
    first, second = FolderSource(tmp_path).items()
    assert first.load().text == "composed"
    assert (first.document_id, second.document_id) == ("caf\u00e9.md", "cafe\u0301.md")
    assert "normalisation" in refusal(second)


def test_name_that_is_no_utf8_is_reported(tmp_path: Path) -> None:
    try:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.md"))).write_text("x")
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    item = only(FolderSource(tmp_path))
    assert item.document_id == r"bad\xff.md"
    assert "not valid UTF-8; rename" in refusal(item)


def test_hidden_entries_count_once_and_are_not_entered(tmp_path: Path) -> None:
    write(tmp_path, ".git/a.md")
    write(tmp_path, ".git/b.md")
    write(tmp_path, "docs/.draft.md")
    write(tmp_path, "docs/a.md")
    source = FolderSource(tmp_path)
    assert ids(source) == ["docs/a.md"]
    assert source.skipped() == {"hidden": 2}


@pytest.mark.parametrize(
    ("include", "exclude", "expected", "excluded"),
    [
        ([], [], ["docs/a.md", "docs/b.txt", "docs/deep/c.md", "r.md"], 0),
        (["*.md"], [], ["docs/a.md", "docs/deep/c.md", "r.md"], 1),
        (["/docs/*.md"], [], ["docs/a.md"], 3),
        (["docs"], [], ["docs/a.md", "docs/b.txt", "docs/deep/c.md"], 1),
        ([], ["deep/"], ["docs/a.md", "docs/b.txt", "r.md"], 1),
        (["*.md"], ["a.md"], ["docs/deep/c.md", "r.md"], 2),
        ([], ["*.md", "!r.md"], ["docs/b.txt", "r.md"], 2),
        ([], ["docs"], ["r.md"], 1),
    ],
)
def test_patterns(tmp_path: Path, include: list[str], exclude: list[str], expected: list[str], excluded: int) -> None:
    for name in ("docs/a.md", "docs/b.txt", "docs/deep/c.md", "r.md"):
        write(tmp_path, name)
    source = FolderSource(tmp_path, include=include, exclude=exclude)
    assert ids(source) == expected
    assert source.skipped().get("excluded", 0) == excluded


def test_patterns_match_a_decomposed_name(tmp_path: Path) -> None:
    write(tmp_path, "cafe\u0301.md")
    assert ids(FolderSource(tmp_path, exclude=["caf\u00e9.md"])) == []


@pytest.mark.parametrize("patterns", ["*.md", [3], ["!"]])
def test_unusable_patterns_are_refused(tmp_path: Path, patterns: list[str]) -> None:
    with pytest.raises(InvalidInput, match="include="):
        FolderSource(tmp_path, include=patterns)


def test_binary_files_are_skipped_by_suffix_or_by_content(tmp_path: Path) -> None:
    write(tmp_path, "logo.png", "text under a binary suffix")
    write(tmp_path, "unknown.thing", PNG)
    write(tmp_path, "nosuffix", PNG)
    write(tmp_path, "stream.ts", b"\x47\0\0\0")
    write(tmp_path, "late.thing", b"a" * 9000 + b"\0")
    write(tmp_path, "LICENSE", "text")
    write(tmp_path, "code.ts", "let x = 1")
    source = FolderSource(tmp_path)
    assert ids(source) == ["LICENSE", "code.ts", "late.thing"]
    assert source.skipped() == {"binary": 4}


def test_text_suffix_with_binary_content_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "hello".encode("utf-16-le"))
    assert "NUL at byte 1:" in refusal(only(FolderSource(tmp_path)))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.unknown"])
def test_byte_order_marks_are_understood_and_dropped(tmp_path: Path, name: str, encoding: str) -> None:
    text = "Straße\r\n日本 😀"
    write(tmp_path, name, ("\ufeff" + text if encoding.endswith("be") else text).encode(encoding))
    assert only(FolderSource(tmp_path)).load().text == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"abc\xff", "not valid UTF-8 at byte 3"),
        (b"\xef\xbb\xbfab\xe9", "not valid UTF-8 at byte 5"),
        (b"\xff\xfea\0\x00\xd8", "not valid UTF-16 at byte 4"),
        (b"\0\0\xfe\xff\0\0\0a\0\x11\0\0", "not valid UTF-32 at byte 8"),
    ],
)
def test_invalid_text_names_the_byte_and_the_way_out(tmp_path: Path, data: bytes, reason: str) -> None:
    path = write(tmp_path, "a.txt", data)
    message = refusal(only(FolderSource(tmp_path)))
    assert message.startswith(f"{path}: {reason}")
    assert "convert it to UTF-8 or exclude it" in message


def test_size_limit_is_inclusive_and_named(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", b"12345678")
    assert only(FolderSource(tmp_path, max_bytes=8)).load().text == "12345678"
    assert "8 bytes, larger than max_bytes=7" in refusal(only(FolderSource(tmp_path, max_bytes=7)))
    with pytest.raises(InvalidInput, match="max_bytes=0"):
        FolderSource(tmp_path, max_bytes=0)


def test_file_that_vanishes_or_becomes_a_fifo_after_the_listing(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt")
    item = only(FolderSource(tmp_path))
    path.unlink()
    assert "vanished since the listing" in refusal(item)
    os.mkfifo(path)
    assert "not a regular file" in refusal(item)


@pytest.mark.timeout(10)
def test_special_files_are_skipped_without_being_opened() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short, socket.socket(socket.AF_UNIX) as listener:
        os.mkfifo(f"{short}/pipe.txt")
        os.mkfifo(f"{short}/pipe")
        listener.bind(f"{short}/sock")
        source = FolderSource(short)
        assert ids(source) == []
        assert source.skipped() == {"not a regular file": 3}


def test_symlinks_inside_the_root_are_followed(tmp_path: Path) -> None:
    write(tmp_path, "real/a.md", "here")
    (tmp_path / "link.md").symlink_to("real/a.md")
    (tmp_path / "other").symlink_to("real", target_is_directory=True)
    items = list(FolderSource(tmp_path).items())
    assert [item.document_id for item in items] == ["link.md", "other/a.md", "real/a.md"]
    assert {item.load().text for item in items} == {"here"}


def test_root_may_be_a_symlink(tmp_path: Path) -> None:
    write(tmp_path, "real/a.md")
    (tmp_path / "real/link.md").symlink_to("a.md")
    (tmp_path / "root").symlink_to("real", target_is_directory=True)
    assert ids(FolderSource(tmp_path / "root")) == ["a.md", "link.md"]


def test_symlinks_out_of_the_root_and_broken_ones_are_skipped(tmp_path: Path) -> None:
    write(tmp_path, "root-too/secret.md")
    write(tmp_path, "root/a.md")
    root = tmp_path / "root"
    (root / "file.md").symlink_to(tmp_path / "root-too/secret.md")
    (root / "folder").symlink_to(tmp_path / "root-too", target_is_directory=True)
    (root / "chain.md").symlink_to("file.md")
    (root / "gone.md").symlink_to("nowhere.md")
    source = FolderSource(root)
    assert ids(source) == ["a.md"]
    assert source.skipped() == {"symlink outside the root": 3, "broken symlink": 1}


def test_symlink_loops_end(tmp_path: Path) -> None:
    write(tmp_path, "a/x.md")
    (tmp_path / "a/up").symlink_to("..", target_is_directory=True)
    (tmp_path / "a/same").symlink_to(".", target_is_directory=True)
    (tmp_path / "self").symlink_to("self")
    source = FolderSource(tmp_path)
    assert ids(source) == ["a/x.md"]
    assert source.skipped() == {"symlink loop": 3}


def test_two_folders_that_link_to_each_other(tmp_path: Path) -> None:
    write(tmp_path, "a/x.md")
    write(tmp_path, "b/y.md")
    (tmp_path / "a/b").symlink_to("../b", target_is_directory=True)
    (tmp_path / "b/a").symlink_to("../a", target_is_directory=True)
    source = FolderSource(tmp_path)
    assert ids(source) == ["a/b/y.md", "a/x.md", "b/a/x.md", "b/y.md"]
    assert source.skipped() == {"symlink loop": 2}


def test_forbidden_file_and_folder_are_reported(guarded: Path) -> None:
    write(guarded, "a.md").chmod(0)
    write(guarded, "unknown.thing").chmod(0)
    write(guarded, "open.md")
    write(guarded, "shut/b.md")
    (guarded / "shut").chmod(0)
    items = {item.document_id: item for item in FolderSource(guarded).items()}
    assert list(items) == ["a.md", "open.md", "shut/", "unknown.thing"]
    assert items["open.md"].load().text == "text"
    for name in ("a.md", "shut/", "unknown.thing"):
        assert "permission denied" in refusal(items[name])


def test_folder_that_may_be_listed_but_not_entered(guarded: Path) -> None:
    write(guarded, "half/b.md")
    (guarded / "half").chmod(0o400)
    item = only(FolderSource(guarded))
    assert item.document_id == "half/b.md"
    assert "permission denied" in refusal(item)


def test_forbidden_root_is_a_problem_of_the_source(guarded: Path) -> None:
    guarded.chmod(0)
    with pytest.raises(SourceProblem, match="permission denied"):
        list(FolderSource(guarded).items())


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="missing"):
        FolderSource(tmp_path / "missing").items()


def test_hint_changes_with_size_time_and_inode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tarragon.sources.file.RACY_NANOSECONDS", -(10**12))
    path = write(tmp_path, "a.md", "one")
    source = FolderSource(tmp_path)
    before = only(source).hint
    status = path.stat()
    assert before == f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}" == only(source).hint
    os.utime(path, ns=(1, status.st_mtime_ns + 1))
    touched = only(source).hint
    write(tmp_path, "new", "two")
    os.utime(tmp_path / "new", ns=(1, status.st_mtime_ns + 1))
    (tmp_path / "new").replace(path)
    assert len({before, touched, only(source).hint}) == 3


def test_counts_are_those_of_the_last_listing(tmp_path: Path) -> None:
    write(tmp_path, ".hidden")
    source = FolderSource(tmp_path)
    for _ in range(2):
        assert ids(source) == []
        assert source.skipped() == {"hidden": 1}
    (tmp_path / ".hidden").unlink()
    assert ids(source) == []
    assert source.skipped() == {}


def test_deep_folders_do_not_exhaust_the_stack(tmp_path: Path) -> None:
    name = "d/" * 300 + "a.md"
    write(tmp_path, name, "deep")
    source = FolderSource(tmp_path)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        (item,) = source.items()
    finally:
        sys.setrecursionlimit(limit)
    assert item.document_id == name
    assert item.load().text == "deep"


def test_html_file_is_markdown(tmp_path: Path) -> None:
    write(tmp_path, "a.HTML", "<title>T</title><p>one</p>")
    document = only(FolderSource(tmp_path)).load()
    assert (document.text, document.format) == ("# T\n\none\n", "markdown")
