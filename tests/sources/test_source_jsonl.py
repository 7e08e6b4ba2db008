from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tarragon.errors import SourceNotFound, SourceProblem, UnreadableDocument
from tarragon.sources import JsonlSource
from tarragon.types import Document


def source_of(tmp_path: Path, *lines: str | bytes, end: bytes = b"\n") -> JsonlSource:
    data = end.join(line.encode() if isinstance(line, str) else line for line in lines)
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(data)
    return JsonlSource(path)


def test_keys(tmp_path: Path) -> None:
    source = source_of(
        tmp_path,
        '{"id": "a", "text": "one"}',
        '{"_id": 7, "title": "Seven", "text": "two", "metadata": {"lang": "de", "url": "inner"}, "url": "outer"}',
        '{"id": "c", "_id": "x", "text": "", "format": "rst", "title": null, "metadata": null}',
    )
    items = list(source.items())
    assert [item.document_id for item in items] == ["a", "7", "c"]
    assert [item.load() for item in reversed(items)] == [
        Document("c", "", {"_id": "x"}, "rst"),
        Document("7", "# Seven\n\ntwo", {"lang": "de", "url": "inner"}),
        Document("a", "one"),
    ]
    assert source.skipped() == {}


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [
        ("T", "body", "# T\n\nbody"),
        ("", "body", "body"),
        (" \n", "body", "body"),
        ("T", "# T\n\nbody", "# T\n\nbody"),
        ("T", "\n## T\nbody", "\n## T\nbody"),
        ("T", "T\nbody", "T\nbody"),
        ("T", "Tea\nbody", "# T\n\nTea\nbody"),
        ("two\nlines", "body", "# two lines\n\nbody"),
    ],
)
def test_title_stands_in_front_once(tmp_path: Path, title: str, text: str, expected: str) -> None:
    (item,) = source_of(tmp_path, json.dumps({"id": 1, "title": title, "text": text})).items()
    assert item.load().text == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ('{"id": "b", "text": "x"} trailing', "not JSON"),
        ("[1]", "a JSON object is needed, this is a list"),
        ('{"text": "x"}', "has no 'id'"),
        ('{"id": "", "text": "x"}', "its id is empty"),
        ('{"id": 1.5, "text": "x"}', "'id' must be str or int, not float"),
        ('{"id": true, "text": "x"}', "'id' must be str or int, not bool"),
        ('{"id": "b"}', "has no 'text'"),
        ('{"id": "b", "text": 3}', "'text' must be str, not int"),
        ('{"id": "b", "text": "x", "title": 0}', "'title' must be str"),
        ('{"id": "b", "text": "x", "metadata": []}', "'metadata' must be dict"),
        ('{"id": "b", "text": "x", "format": "pdf"}', "format 'pdf' is none of markdown, rst"),
        ('{"id": "b", "text": "x", "score": NaN}', "not JSON: NaN"),
        ('{"id": "b", "text": "half \\ud83d"}', "surrogate"),
        ('{"id": "b", "text": ' + "[" * 100_000, "nested too deeply"),
        (b'{"id": "b", "text": "\xff"}', "not valid UTF-8 at byte 21"),
        ("x" * 20_000, "not JSON"),
    ],
)
def test_malformed_line_is_reported_with_its_number_and_the_others_go_on(
    tmp_path: Path, line: str | bytes, reason: str
) -> None:
    good = '{"id": "%s", "text": "fine"}'
    first, bad, last = source_of(tmp_path, good % "a", "", line, good % "z").items()
    assert [first.document_id, bad.document_id, last.document_id] == ["a", "corpus.jsonl:3", "z"]
    assert last.load().text == "fine"
    with pytest.raises(UnreadableDocument) as caught:
        bad.load()
    assert "corpus.jsonl, line 3: " in str(caught.value)
    assert reason in str(caught.value)
    assert caught.value.data["line"] == 3


def test_whole_surrogate_pairs_are_text(tmp_path: Path) -> None:
    (item,) = source_of(tmp_path, '{"id": "b", "text": "\\ud83d\\ude00"}').items()
    assert item.load().text == "😀"


@pytest.mark.parametrize("excess", [1, 2, 100, 101, 102, 1000])
def test_line_over_the_limit_is_reported_and_the_next_is_found(tmp_path: Path, excess: int) -> None:
    def line(number: int, length: int) -> str:
        return f'{{"id": {number}, "text": "'.ljust(length - 3, "x") + '"}\n'

    path = tmp_path / "c.jsonl"
    path.write_text(line(1, 100) + line(2, 100 + excess) + line(3, 100) + line(4, 100 + excess)[:-1])
    items = list(JsonlSource(path, max_bytes=100).items())
    assert [item.document_id for item in items] == ["1", "c.jsonl:2", "3", "4" if excess == 1 else "c.jsonl:4"]
    assert [len(items[n].load().text) for n in (0, 2)] == [100 - 3 - 19] * 2
    with pytest.raises(UnreadableDocument, match=f"line 2: {100 + excess} bytes, longer than max_bytes=100"):
        items[1].load()


def test_blank_lines_crlf_and_byte_order_mark(tmp_path: Path) -> None:
    source = source_of(
        tmp_path, b"\xef\xbb\xbf" + b'{"id": 1, "text": "a"}', " ", '{"id": 2, "text": "b"}', "", end=b"\r\n"
    )
    assert [item.load().text for item in source.items()] == ["a", "b"]


def test_two_lines_of_one_id_are_both_listed(tmp_path: Path) -> None:
    items = list(source_of(tmp_path, '{"id": 1, "text": "a"}', '{"id": "1", "text": "b"}').items())
    assert [(item.document_id, item.load().text) for item in items] == [("1", "a"), ("1", "b")]


def test_file_that_changes_or_vanishes_after_the_listing(tmp_path: Path) -> None:
    (item,) = source_of(tmp_path, '{"id": "a", "text": "one"}').items()
    source_of(tmp_path, '{"id": "b", "text": "one"}')
    with pytest.raises(UnreadableDocument, match="changed since the listing: was 'a', is 'b'"):
        item.load()
    (tmp_path / "corpus.jsonl").unlink()
    with pytest.raises(UnreadableDocument, match="line 1: vanished"):
        item.load()


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"none\.jsonl"):
        list(JsonlSource(tmp_path / "none.jsonl").items())
    with pytest.raises(SourceProblem, match="not a regular file"):
        list(JsonlSource(tmp_path).items())


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts=st.lists(TEXT, max_size=8), ascii_only=st.booleans())
def test_every_text_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], ascii_only: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.jsonl"
    records = [json.dumps({"id": n, "text": text}, ensure_ascii=ascii_only) for n, text in enumerate(texts)]
    path.write_bytes("\n".join(records).encode())
    assert [item.load() for item in JsonlSource(path).items()] == [Document(str(n), t) for n, t in enumerate(texts)]
