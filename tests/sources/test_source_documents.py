from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from tarragon import sources
from tarragon.errors import InvalidInput, SourceNotFound, UnreadableDocument
from tarragon.protocols import Source, SourceItem
from tarragon.sources import DocumentsSource, FileSource, FolderSource, JsonlSource, open_source
from tarragon.sources.formats import BINARY_SUFFIXES, CONVERTED_SUFFIXES, HTML_SUFFIXES, TEXT_SUFFIXES, format_of
from tarragon.types import Document, Format

DOCUMENTS = [Document("b", "two"), Document("a", "one", {"k": 1}, "text")]


def test_documents_come_in_order_as_they_are() -> None:
    source: Source = DocumentsSource(DOCUMENTS)
    items = list(source.items())
    assert [(item.document_id, item.hint) for item in items] == [("b", None), ("a", None)]
    assert [item.load() for item in items] == DOCUMENTS
    assert source.skipped() == {}


def test_generator_lists_the_same_twice() -> None:
    source = DocumentsSource(document for document in DOCUMENTS)
    assert [item.document_id for item in source.items()] == [item.document_id for item in source.items()] == ["b", "a"]


@pytest.mark.parametrize(("element", "name"), [("text", "str"), ({"id": "a"}, "dict"), (None, "NoneType")])
def test_other_elements_are_refused_with_type_and_position(element: Any, name: str) -> None:
    with pytest.raises(InvalidInput, match=f"element 2 is a {name}") as caught:
        DocumentsSource([*DOCUMENTS, element])
    assert caught.value.data == {"position": 2, "type": name}


class Own:
    def items(self) -> Iterator[SourceItem]:
        return iter(())

    def skipped(self) -> Mapping[str, int]:
        return {}


def test_open_source_chooses_by_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1, "text": "x"}')
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "folder.jsonl").mkdir()
    own = Own()
    assert open_source(own) is own
    assert type(open_source(tmp_path)) is FolderSource
    assert type(open_source(str(tmp_path / "folder.jsonl"))) is FolderSource
    assert type(open_source(tmp_path / "a.jsonl")) is JsonlSource
    assert type(open_source(str(tmp_path / "a.md"))) is FileSource
    assert type(open_source(iter(DOCUMENTS))) is DocumentsSource
    assert type(open_source([])) is DocumentsSource


def test_options_arrive(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("0123456789")
    (tmp_path / "b.md").write_text("b")
    (tmp_path / "c.txt").write_text("c")
    (tmp_path / "d.jsonl").write_text('{"id": 1, "text": "x"}')
    folder = open_source(tmp_path, include=["*.md"], exclude=["b*"], max_bytes=9)
    (item,) = folder.items()
    assert item.document_id == "a.md"
    (lone,) = open_source(tmp_path / "a.md", max_bytes=9).items()
    (line,) = open_source(tmp_path / "d.jsonl", max_bytes=9).items()
    for each in (item, lone, line):
        with pytest.raises(UnreadableDocument, match="max_bytes=9"):
            each.load()


def test_single_file_is_named_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "deep" / ".hidden.py"
    path.parent.mkdir()
    path.write_text("x = 1")
    (item,) = open_source(path).items()
    assert item.load() == Document(".hidden.py", "x = 1", format="code")
    assert item.hint is None, "so young a file may change again within the same time stamp"


def test_single_binary_file_is_reported_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.thing").write_bytes(b"\0\1")
    source = open_source(tmp_path / "a.thing")
    (item,) = source.items()
    assert source.skipped() == {}
    with pytest.raises(UnreadableDocument, match=r"a\.thing: binary"):
        item.load()


def test_single_file_that_vanishes_before_the_listing(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x")
    source = open_source(tmp_path / "a.md")
    (tmp_path / "a.md").unlink()
    with pytest.raises(SourceNotFound, match=r"a\.md"):
        source.items()


def test_missing_path_names_itself_and_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceNotFound) as caught:
        open_source("docs")
    assert "'docs'" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.data == {"path": "docs", "cwd": str(tmp_path)}


def test_relative_path_stays_what_it_was_when_the_current_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("x")
    monkeypatch.chdir(tmp_path)
    source = open_source("docs")
    monkeypatch.chdir("/")
    (item,) = source.items()
    assert item.load().text == "x"


@pytest.mark.parametrize("source", [None, 3, b"docs", Document("a", "x"), "", object()])
def test_what_is_no_source_is_refused(source: Any) -> None:
    with pytest.raises(InvalidInput):
        open_source(source)


def test_fifo_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InvalidInput, match="neither a folder nor a regular file"):
        open_source(tmp_path / "pipe.jsonl")


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_patterns_are_for_folders_only(tmp_path: Path, option: str) -> None:
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "a.md").write_text("")
    for source in (tmp_path / "a.jsonl", str(tmp_path / "a.md"), DOCUMENTS, Own()):
        with pytest.raises(InvalidInput, match="include and exclude"):
            open_source(source, **{option: ["*.md"]})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.md", "markdown"),
        ("a/b.HTML", "markdown"),
        ("a.pdf", "markdown"),
        ("README", "markdown"),
        ("an id", "markdown"),
        ("a.unknown", "markdown"),
        ("a.rst", "rst"),
        ("src/a.PY", "code"),
        ("a.d.ts", "code"),
        ("docker/Dockerfile", "code"),
        ("CMakeLists.txt", "code"),
        ("pyproject.toml", "code"),
        ("notes.txt", "text"),
        ("table.csv", "text"),
    ],
)
def test_format_by_name(name: str, expected: Format) -> None:
    assert format_of(name) == expected
    assert expected in get_args(Format)


def test_suffix_sets_do_not_overlap() -> None:
    assert not TEXT_SUFFIXES & BINARY_SUFFIXES
    assert not CONVERTED_SUFFIXES & (TEXT_SUFFIXES | BINARY_SUFFIXES)
    assert HTML_SUFFIXES < TEXT_SUFFIXES
    assert all(name.startswith(".") and name == name.lower() for name in TEXT_SUFFIXES | BINARY_SUFFIXES)


def test_public_names_are_sorted() -> None:
    assert sources.__all__ == sorted(sources.__all__, key=lambda name: (not name.isupper(), name))
