"""Looking at one document of a source says what listing all of them says."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

from tarragon.errors import InvalidInput, SourceNotFound, SourceProblem, UnreadableDocument
from tarragon.protocols import FindableSource, SourceItem
from tarragon.sources import DocumentsSource, FileSource, FolderSource, JsonlSource, reopen
from tarragon.sources.folder import RESPELLED
from tarragon.types import Document

NAMES = [
    *("a", "b", "c.md", "d.txt", "e", "f.log", "logo.png", ".hidden", ".git", "K.md", "\u212a.md", ";.md", "\u037e.md"),
    *("caf\u00e9", "cafe\u0301", "caf\u00e9.md", "cafe\u0301.md", "\u1e69.md", "s\u0323\u0307.md", "s\u0307\u0323.md"),
    *("bad\udcff.md", "bad\\xff.md", "bad\udcff", "bad\\xff"),
]
KINDS = ["text"] * 6 + ["folder"] * 5 + ["binary", "link", "link", "fifo", "shut file", "shut folder", "blind folder"]
OUT = ["..", "../secret.md", "a/../../secret.md", "/etc/passwd", "//etc/passwd", "", "/", ".", "./c.md", "a//c.md"]
ODD = ["c.md/", "c.md/x", "c.md\0", "\ud800.md", "\udcff.md", "x" * 5000, "a\\..\\c.md", "..\\secret.md", "C:\\c.md"]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives every file a hint, however young it is."""
    monkeypatch.setattr("tarragon.sources.file.RACY_NANOSECONDS", -(10**12))


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder whose permissions bind this process, also where the tests run as root."""
    place = Path(tempfile.mkdtemp())
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(place, 65534, 65534)
        os.seteuid(65534)
    try:
        yield place
    finally:
        if is_root:
            os.seteuid(0)
        for folder, _, _ in os.walk(place):
            Path(folder).chmod(0o700)
        shutil.rmtree(place)


def outcome(item: SourceItem | None) -> tuple[object, ...] | None:
    if item is None:
        return None
    try:
        return item.document_id, item.hint, item.hides, item.load()
    except UnreadableDocument as error:
        return item.document_id, item.hint, item.hides, str(error)


def first_of_each(items: Iterable[SourceItem]) -> dict[str, SourceItem]:
    """What a sync makes of a listing."""
    found: dict[str, SourceItem] = {}
    for item in items:
        found.setdefault(normalize("NFC", item.document_id), item)
    return found


def grow(root: Path, chance: random.Random) -> list[str]:
    """Fill a folder at random; the relative paths of all that was made."""
    (root.parent / "secret.md").write_text("secret")
    root.mkdir()
    folders, made, shut = [root], list[Path](), list[tuple[Path, int]]()
    for _ in range(chance.randrange(5, 40)):
        path = chance.choice(folders) / chance.choice(NAMES + ["tarragon.json"] * (chance.random() < 0.05))
        if os.path.lexists(path):
            continue
        kind = chance.choice(KINDS)
        if kind == "link":
            path.symlink_to(
                chance.choice([*made, *folders, root.parent / "secret.md", root.parent, Path("self"), path])
            )
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind.endswith("folder"):
            path.mkdir()
            folders.append(path)
        else:
            path.write_bytes(b"\0\1" if kind == "binary" else f"text of {path.name!r}".encode())
        made.append(path)
        if kind.startswith(("shut", "blind")):
            shut.append((path, 0o400 if kind.startswith("blind") else 0))
    for path, mode in reversed(shut):
        path.chmod(mode)
    return [os.fspath(path.relative_to(root)) for path in made]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("seed", range(100))
def test_folder_finds_exactly_what_it_lists(place: Path, seed: int) -> None:
    chance = random.Random(seed)
    made = grow(place / "root", chance)
    patterns = [[], [], ["*.md"], ["a", "K.md", "caf\u00e9*"], ["b/"], ["*.log", "/a/"]]
    source = FolderSource(place / "root", include=chance.choice(patterns[:4]), exclude=chance.choice(patterns))
    if (place / "root/tarragon.json").exists():
        with pytest.raises(SourceProblem, match="is an index"):
            source.find("c.md")
        return
    listed = first_of_each(source.items())
    assert {id_: outcome(source.find(id_)) for id_ in listed} == {id_: outcome(item) for id_, item in listed.items()}
    asked = [*chance.sample(sorted(listed), len(listed)), *made, *OUT, *ODD]
    assert [outcome(one) for one in source.find_all(asked)] == [outcome(source.find(id_)) for id_ in asked]
    hides = tuple(item.hides for item in listed.values() if item.hides is not None)
    for name in [*made, *(f"{name}/{NAMES[2]}" for name in made), *OUT, *ODD]:
        found, id_ = source.find(name), normalize("NFC", name)
        if id_ in listed:
            assert outcome(found) == outcome(listed[id_])
        elif found is not None:
            assert id_.startswith(hides)
            assert (found.hint, found.document_id) == (None, id_)
            with pytest.raises(UnreadableDocument):
                found.load()


@pytest.mark.parametrize("document_id", OUT + ODD)
def test_no_id_leads_out_of_the_folder(tmp_path: Path, document_id: str) -> None:
    (tmp_path / "secret.md").write_text("secret")
    (tmp_path / "root/a").mkdir(parents=True)
    (tmp_path / "root/c.md").write_text("text")
    (tmp_path / "root/a/c.md").write_text("text")
    source = FolderSource(tmp_path / "root")
    assert source.find("a/c.md") is not None
    assert source.find(document_id) is None


def test_what_a_listing_leaves_out_is_not_found(tmp_path: Path) -> None:
    for name in (".git/a.md", "docs/.b.md", "docs/old/c.md", "index/tarragon.json", "index/d.md", "e.png", "f.bin.md"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text("x")
    (tmp_path / "out.md").write_text("x")
    (tmp_path / "root/out.md").symlink_to(tmp_path / "out.md")
    (tmp_path / "root/out").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "root/loop").symlink_to(".", target_is_directory=True)
    source = FolderSource(tmp_path / "root", exclude=["old/"])
    for name in (".git/a.md", "docs/.b.md", "docs/old/c.md", "index/d.md", "e.png", "out.md", "out/out.md", "docs"):
        assert source.find(name) is None, name
    assert source.find("loop/f.bin.md") is None
    assert source.find("f.bin.md") is not None


def test_a_file_behind_a_closed_folder_is_not_known_to_be_gone(place: Path) -> None:
    (place / "shut").mkdir()
    (place / "shut/a.md").write_text("x")
    (place / "shut").chmod(0)
    source = FolderSource(place)
    for name in ("shut/a.md", "shut/never.md", "shut/"):
        item = source.find(name)
        assert item is not None
        with pytest.raises(UnreadableDocument, match="permission denied"):
            item.load()
    assert source.find("shut/.hidden.md") is None
    place.chmod(0)
    with pytest.raises(SourceProblem, match="permission denied"):
        source.find("shut/a.md")


def test_where_the_source_is_gone_nothing_is_known(tmp_path: Path) -> None:
    for name in ("folder/a.md", "b.md", "c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"id": "b.md", "text": ""}')
    sources = FolderSource(tmp_path / "folder"), FileSource(tmp_path / "b.md"), JsonlSource(tmp_path / "c.jsonl")
    shutil.rmtree(tmp_path)
    for source in sources:
        with pytest.raises(SourceNotFound):
            source.find("b.md")


@pytest.mark.usefixtures("settled")
def test_hint_follows_the_file(tmp_path: Path) -> None:
    source = FolderSource(tmp_path)
    path = tmp_path / "a.md"
    assert source.find("a.md") is None
    path.write_text("one")
    before = source.find("a.md")
    path.write_text("other")
    after = source.find("a.md")
    assert before is not None
    assert after is not None
    assert before.hint != after.hint
    path.unlink()
    assert source.find("a.md") is None


def test_only_these_ascii_characters_come_from_others() -> None:
    others = {normalize("NFC", chr(code)) for code in range(128, sys.maxunicode + 1)}
    assert {text for text in others if text.isascii()} | {"\\"} == RESPELLED


# --- other sources ----------------------------------------------------------------------------------------------------
def test_single_file(tmp_path: Path) -> None:
    path = tmp_path / "cafe\u0301.md"
    path.write_text("x")
    os.utime(path, (1, 1))
    source = FileSource(path)
    (item,) = source.items()
    assert outcome(source.find("cafe\u0301.md")) == outcome(source.find("caf\u00e9.md")) == outcome(item)
    assert source.find("other.md") is None
    assert item.hint is not None


def test_documents() -> None:
    source = DocumentsSource([Document("a", "1"), Document("cafe\u0301", "2"), Document("a", "3"), Document(4, "4")])  # type: ignore[arg-type]
    found = [source.find(id_) for id_ in ("a", "caf\u00e9", "cafe\u0301", "b")]
    assert [item and item.load().text for item in found] == ["1", "2", "2", None]


def write_lines(path: Path, *records: object, end: str = "\n") -> None:
    path.write_text("".join(f"{record if isinstance(record, str) else json.dumps(record)}{end}" for record in records))


@pytest.mark.usefixtures("settled")
def test_jsonl_finds_exactly_what_it_lists(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    records = [{"id": id_, "text": f"{n}"} for n, id_ in enumerate([5, "5", "cafe\u0301", "caf\u00e9", "a", "\u212a"])]
    write_lines(path, *records, "", "  ", records[0], "{", {"id": "long", "text": "x" * 200}, {"text": "no id"})
    source = JsonlSource(path, max_bytes=150)
    listed = first_of_each(source.items())
    assert list(listed) == ["5", "caf\u00e9", "a", "K", "c.jsonl:10", "c.jsonl:11", "c.jsonl:12"]
    assert {id_: outcome(source.find(id_)) for id_ in listed} == {id_: outcome(item) for id_, item in listed.items()}
    assert outcome(source.find("cafe\u0301")) == outcome(listed["caf\u00e9"])
    hidden = source.find("gone")
    assert hidden is not None
    assert (hidden.document_id, hidden.hint, hidden.hides) == ("gone", None, None)
    with pytest.raises(UnreadableDocument, match="line 10: not JSON"):
        hidden.load()
    write_lines(path, *records)
    assert source.find("gone") is None


def test_empty_jsonl(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("")
    assert JsonlSource(tmp_path / "c.jsonl").find("a") is None


@pytest.mark.parametrize("racy", [-(10**12), 10**12], ids=["settled", "young"])
def test_jsonl_is_read_again_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, racy: int) -> None:
    monkeypatch.setattr("tarragon.sources.file.RACY_NANOSECONDS", racy)
    path = tmp_path / "c.jsonl"
    source = JsonlSource(path)
    for ids in (["a"], ["b", "a"], ["b"], ["c", "b", "a"]):
        write_lines(path, *({"id": id_, "text": f"{id_} of {ids}"} for id_ in ids))
        found = {id_: source.find(id_) for id_ in "abc"}
        assert {id_: item.load().text for id_, item in found.items() if item} == {id_: f"{id_} of {ids}" for id_ in ids}


def test_young_jsonl_is_not_trusted_to_show_a_change(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    source = JsonlSource(path)
    for text in ("one", "two"):
        write_lines(path, {"id": text, "text": text})
        os.utime(path, ns=(1, 4 * 10**18))
        item = source.find(text)
        assert item is not None
        assert item.load().text == text


def test_settled_jsonl_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.jsonl"
    write_lines(path, *({"id": f"{n}", "text": "x"} for n in range(100)))
    os.utime(path, (1, 1))
    source, reads = JsonlSource(path), list[object]()
    listed = source._listed
    monkeypatch.setattr(source, "_listed", lambda file: reads.append(file) or listed(file))
    found = list[SourceItem | None]()
    threads = [threading.Thread(target=lambda n=n: found.append(source.find(f"{n}"))) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {item.document_id for item in found if item} == {f"{n}" for n in range(20)}
    assert len(reads) == 1


def test_jsonl_hint_is_of_the_line_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    a, b, c = ({"id": id_, "text": id_} for id_ in "abc")

    def hints() -> dict[str, str | None]:
        return {item.document_id: item.hint for item in JsonlSource(path).items()}

    write_lines(path, a, b)
    before = hints()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()[:-1])
    assert hints() == before
    write_lines(path, c, b, a, end="\r\n")
    assert {**hints(), **before} == hints()
    write_lines(path, a, {"id": "b", "text": "b", "lang": "de"})
    assert hints()["a"] == before["a"]
    assert hints()["b"] != before["b"]
    assert None not in before.values()


def test_jsonl_line_that_changes_after_the_listing_is_not_loaded_under_the_former_hint(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    write_lines(path, {"id": "a", "text": "one"})
    (item,) = JsonlSource(path).items()
    write_lines(path, {"id": "a", "text": "two"})
    with pytest.raises(UnreadableDocument, match="changed since the listing; sync again"):
        item.load()


# --- descriptions -----------------------------------------------------------------------------------------------------
def test_descriptions_make_the_same_source_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("docs/a.md", "docs/b.txt", "docs/old/c.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("0123456789")
    write_lines(tmp_path / "d.jsonl", {"id": 1, "text": "x"})
    monkeypatch.chdir(tmp_path)
    sources: list[FindableSource] = [
        FolderSource("docs", include=("*.md",), exclude=["old/"], max_bytes=9),
        FolderSource("docs"),
        FileSource("docs/a.md", max_bytes=9),
        JsonlSource("d.jsonl", max_bytes=9),
    ]
    monkeypatch.chdir("/")
    for source in sources:
        again = reopen(json.loads(json.dumps(source.describe())))
        assert type(again) is type(source)
        assert again.describe() == source.describe()
        assert [outcome(item) for item in again.items()] == [outcome(item) for item in source.items()]
    assert sources[0].describe() == {
        "kind": "folder",
        "path": str(tmp_path / "docs"),
        "include": ["*.md"],
        "exclude": ["old/"],
        "max_bytes": 9,
    }


def test_own_documents_cannot_be_described() -> None:
    source = DocumentsSource([])
    assert source.describe() is None
    assert isinstance(source, FindableSource)


def test_reopening_does_not_look(tmp_path: Path) -> None:
    source = reopen({"kind": "file", "path": str(tmp_path / "none.md"), "max_bytes": 1})
    with pytest.raises(SourceNotFound):
        source.find("none.md")


FOLDER = {"kind": "folder", "path": "/docs", "include": [], "exclude": [], "max_bytes": 1}


@pytest.mark.parametrize(
    ("description", "named"),
    [
        (None, "None"),
        ("folder", "'folder'"),
        ({}, "kind must be one of folder, file, jsonl"),
        ({"kind": "s3", "path": "/docs"}, "'s3'"),
        ({"kind": ["folder"]}, r"\['folder'\]"),
        ({**FOLDER, "path": "docs"}, "'path' missing"),
        ({**FOLDER, "path": "/\0"}, "'path' missing"),
        ({**FOLDER, "path": 3}, "'path' missing"),
        ({**FOLDER, "include": "*.md"}, "'include' missing"),
        ({**FOLDER, "exclude": [3]}, "'exclude' missing"),
        ({**FOLDER, "exclude": ["!"]}, "exclude="),
        ({**FOLDER, "max_bytes": True}, "'max_bytes' missing"),
        ({**FOLDER, "max_bytes": 0}, "max_bytes=0"),
        ({**FOLDER, "depth": 3}, "'depth' missing, unknown"),
        ({**FOLDER, "kind": "file"}, "'include', 'exclude' missing, unknown"),
        ({"kind": "jsonl", "path": "/a.jsonl"}, "'max_bytes' missing"),
    ],
)
def test_what_describes_no_source_is_refused(description: Any, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        reopen(description)
