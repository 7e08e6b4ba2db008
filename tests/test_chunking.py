from __future__ import annotations

import itertools
import random
import time
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tarragon.chunking import Chunker, chunker_identity, whole_text
from tarragon.chunking.blocks import Block
from tarragon.chunking.markdown import parse_markdown
from tarragon.chunking.packing import CHARACTERS_PER_TOKEN
from tarragon.chunking.plain import parse_code, parse_rst, parse_text
from tarragon.encoders.tokens import FastTokenizer
from tarragon.identity import chunk_hash
from tarragon.types import Chunk, Document, Format

FORMATS: tuple[Format, ...] = tuple(name for name in get_args(Format) if name != "whole")
"""Those that are cut."""
LIMITS = [16, 24, 64, 256]


def chunks_of(
    tokenizer: FastTokenizer, text: str, format_: Format = "markdown", limit: int = 64, context: str = ""
) -> list[Chunk]:
    return Chunker(tokenizer, limit).chunk([(Document("d", text, context=context), format_)])[0]


def assert_laws(tokenizer: FastTokenizer, text: str, chunks: list[Chunk], limit: int) -> None:
    """What holds for every chunking of every text."""
    position = 0
    for ordinal, chunk in enumerate(chunks):
        assert chunk.ordinal == ordinal
        assert position <= chunk.start < chunk.end
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.embed_text.endswith(chunk.text)
        assert not text[position : chunk.start].strip(), "only blanks between chunks"
        assert chunk.text == chunk.text.strip()
        position = chunk.end
    assert not text[position:].strip()
    expected = tokenizer.tokenize([chunk.embed_text for chunk in chunks]) if chunks else []
    for chunk, ids in zip(chunks, expected, strict=True):
        assert chunk.token_ids is not None
        assert chunk.token_ids.tolist() == ids.tolist()
        assert chunk.tokens == len(ids) <= limit
        assert len(chunk.text) <= limit * CHARACTERS_PER_TOKEN


# --- laws -------------------------------------------------------------------------------------------------------------
WORDS = [
    "the",
    "key",
    "Tokenization",
    "antidisestablishmentarianism",
    "e.g.",
    "3.14",
    "don't",
    "Straße",
    "naïve",
    "İstanbul",
]
SCRIPTS = [
    "日本語。",
    "漢字、かな！",
    "「引用。」",
    "한국어",
    "한" * 40,
    "العربية",
    "भाषा",
    "ก" * 40,
    "🙂",
    "👩‍👩‍👧",
    "e\u0301" * 3,
    "\u0301",
]
ODD = [
    "x" * 130,
    "ab" * 200,
    "[SEP]",
    "[MASK]",
    "a[CLS]b",
    "[UNK]x",
    "[PAD",
    "ﷺ",
    "ß",
    "\ufffd",
    "𝔘",
    "\u3099",
    "a.b.c,d;e",
    "))((",
    "...",
]
CONTROLS = [
    "\x00",
    "\x07",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x1f",
    "\x7f",
    "\x85",
    "\xad",
    "\u200b",
    "\u200d",
    "\u2028",
    "\u2060",
    "\ufeff",
]
BLANKS = [" ", "  ", "\t", "\n", "\n\n", "\r\n", "\r\n\r\n", "\r", "\xa0", "\u3000", "\n    ", "\n  "]
MARKUP = [
    "# ", "## ", "###### ", "#", "\n# Title\n", "\n## Under\n\n", "\n===\n", "\n---\n", "---\n", "- ", "\n- ",
    "\n* ", "1. ", "\n12) ",
    "\n```\n", "```python\n", "\n~~~\n", "| a | b |\n", "|---|\n", "> ", "<b>", "[a](b)", "*", "**",
    "_", "`", "::", "\n====\n", "\n~~~~~\n",
    "====\nOver\n====\n", ".. note::\n", "def f():\n", "    return 1\n", ". ", "! ", "? ", "。", "… ",
]  # fmt: skip
atoms = st.one_of(*(st.sampled_from(pool) for pool in (WORDS, SCRIPTS, ODD, CONTROLS, BLANKS, BLANKS, MARKUP, MARKUP)))
texts = st.one_of(
    st.lists(atoms, max_size=60).map("".join),
    st.lists(st.one_of(atoms, st.text(max_size=6)), max_size=20).map(" ".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
)


@settings(max_examples=300, deadline=None)
@given(text=texts, format_=st.sampled_from(FORMATS), limit=st.sampled_from(LIMITS))
def test_laws(tokenizer: FastTokenizer, text: str, format_: Format, limit: int) -> None:
    chunks = chunks_of(tokenizer, text, format_, limit)
    assert_laws(tokenizer, text, chunks, limit)
    assert bool(chunks) is bool(text.strip())


@settings(max_examples=200, deadline=None)
@given(
    text=texts, format_=st.sampled_from(FORMATS), context=st.sampled_from(["The report.", "team: search", "x y " * 3])
)
def test_laws_with_a_context(tokenizer: FastTokenizer, text: str, format_: Format, context: str) -> None:
    chunks = chunks_of(tokenizer, text, format_, 64, context)
    assert_laws(tokenizer, text, chunks, 64)
    assert all(chunk.embed_text.startswith(f"{context.strip()}\n") for chunk in chunks)
    assert context.strip() not in "".join(chunk.text for chunk in chunks) or context.strip() in text


def test_a_context_takes_room_but_at_most_half(tokenizer: FastTokenizer) -> None:
    text = "one two three four five six seven eight. " * 40
    plain, short, long = (chunks_of(tokenizer, text, "text", 64, context) for context in ("", "a b c d", "word " * 500))
    lengths = [len(chunks_of(tokenizer, text, "text", room)) for room in (64, 60, 32)]
    assert [len(plain), len(short), len(long)] == lengths
    assert {chunk.tokens - len(tokenizer.tokenize([chunk.text])[0]) for chunk in short} == {4}
    assert {chunk.embed_text.split("\n")[0] for chunk in long} == {" ".join(["word"] * 32)}, "its beginning is kept"
    for context in ("word " * 500, "x" * 5_000, "antidisestablishmentarianism " * 30):
        assert_laws(tokenizer, text, chunks_of(tokenizer, text, "text", 64, context), 64)


def test_a_context_that_is_blank_is_none(tokenizer: FastTokenizer) -> None:
    assert describe(chunks_of(tokenizer, "# A\n\nb", context=" \n")) == describe(chunks_of(tokenizer, "# A\n\nb"))


def test_what_is_whole_is_one_chunk_whatever_its_length(tokenizer: FastTokenizer) -> None:
    text = "\n# Title\n\n" + "one two three. " * 100 + "\n## Next\n\nend "
    for context in ("", "The report."):
        documents = [(Document("a", "# T\n\nbody"), "markdown"), (Document("b", text, context=context), "whole")]
        cut, whole = Chunker(tokenizer, 16).chunk(documents)
        assert len(cut) >= 1
        (chunk,) = whole
        assert chunk.text == text.strip()
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.embed_text == (f"{context}\n{chunk.text}" if context else chunk.text)
        assert chunk.embed_text == whole_text(Document("b", text, context=f" {context}\n"))
        assert chunk.token_ids is not None
        assert chunk.token_ids.tolist() == tokenizer.tokenize([chunk.embed_text])[0].tolist()
    assert Chunker(tokenizer, 16).chunk([(Document("a", " \n "), "whole")]) == [[]]


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("limit", LIMITS)
def test_laws_on_long_mixtures(tokenizer: FastTokenizer, format_: Format, limit: int) -> None:
    rng = random.Random(limit)
    pool = [*WORDS * 4, *SCRIPTS, *ODD, *CONTROLS, *BLANKS * 3, *MARKUP * 2]
    text = "".join(rng.choice(pool) + rng.choice(["", " ", " ", "\n"]) for _ in range(1500))
    chunks = chunks_of(tokenizer, text, format_, limit)
    assert len(chunks) > 10
    assert_laws(tokenizer, text, chunks, limit)


@pytest.mark.parametrize(
    "text",
    [
        "page one.\x0cPage two",  # BERT drops a form feed: "one.Page"; a cut there would make two words of one
        "a\x0bb",
        "x\x1cy\x1dz",
        "one\x85two",
        "line one\x0c\nline two\x0b\nline three",
        "# Title\x0cmore\n\nbody",
        "a\u2028b\u2029c",
        "[SEP] in the text [MASK]. And [CLS].",
        "zero\u200bwidth \u200b\u200b joined",
    ],
)
@pytest.mark.parametrize("format_", FORMATS)
def test_laws_where_tokenizer_and_python_disagree_on_blanks(
    tokenizer: FastTokenizer, text: str, format_: Format
) -> None:
    long = (text + " and then some more words.\n") * 20
    wordy = " ".join([text.replace(".", "")] * 60)  # one sentence, so that words are cut
    for limit in (16, 64):
        assert_laws(tokenizer, text, chunks_of(tokenizer, text, format_, limit), limit)
        assert_laws(tokenizer, long, chunks_of(tokenizer, long, format_, limit), limit)
        assert_laws(tokenizer, wordy, chunks_of(tokenizer, wordy, format_, limit), limit)


@pytest.mark.parametrize(
    "word", ["한" * 60, "각" * 33, "日" * 500, "a,b;" * 200, "x" * 99, "x" * 5000, "é" * 200, "🙂," * 90]
)
@pytest.mark.parametrize("limit", [16, 64])
def test_long_words_are_torn_within_the_limit(tokenizer: FastTokenizer, word: str, limit: int) -> None:
    """A Korean syllable is up to three tokens, an unknown word of any length is one."""
    text = f"before {word} after"
    assert_laws(tokenizer, text, chunks_of(tokenizer, text, "text", limit), limit)


@settings(max_examples=40, deadline=None)
@given(batch=st.lists(st.tuples(texts, st.sampled_from(FORMATS)), min_size=2, max_size=4))
def test_a_document_is_cut_alike_in_any_batch(tokenizer: FastTokenizer, batch: list[tuple[str, Format]]) -> None:
    documents = [(Document(str(place), text), format_) for place, (text, format_) in enumerate(batch)]
    together = Chunker(tokenizer, 32).chunk(documents)
    for (document, format_), chunks in zip(documents, together, strict=True):
        assert describe(chunks) == describe(chunks_of(tokenizer, document.text, format_, 32))


def describe(chunks: list[Chunk]) -> list[tuple[object, ...]]:
    return [
        (c.start, c.end, c.heading, c.embed_text, None if c.token_ids is None else c.token_ids.tolist()) for c in chunks
    ]


sections = st.lists(
    st.lists(st.lists(st.sampled_from(WORDS[:4]), min_size=1, max_size=30), min_size=1, max_size=3),
    min_size=2,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(sections=sections, data=st.data())
def test_a_new_paragraph_leaves_every_other_section_its_keys(
    tokenizer: FastTokenizer, sections: list[list[list[str]]], data: st.DataObject
) -> None:
    paragraphs = [[" ".join(words) + "." for words in section] for section in sections]
    place = data.draw(st.integers(0, len(paragraphs) - 1))
    at = data.draw(st.integers(0, len(paragraphs[place])))
    changed = [list(section) for section in paragraphs]
    changed[place].insert(at, "A paragraph that was not there before.")

    def hashes(sections: list[list[str]]) -> dict[tuple[str, ...], list[bytes]]:
        text = "# Book\n\n" + "\n\n".join(f"## Part {n}\n\n" + "\n\n".join(s) for n, s in enumerate(sections))
        found: dict[tuple[str, ...], list[bytes]] = {}
        for chunk in chunks_of(tokenizer, text, "markdown", 32):
            found.setdefault(chunk.heading, []).append(chunk_hash(chunk.embed_text))
        return found

    before, after = hashes(paragraphs), hashes(changed)
    touched = ("Book", f"Part {place}")
    assert before.keys() == after.keys()
    assert {path for path in before if before[path] != after[path]} == {touched}


# --- headings ---------------------------------------------------------------------------------------------------------
def outline(blocks: list[Block]) -> list[tuple[int, str]]:
    return [(block.level, block.title) for block in blocks if block.kind == "heading"]


def kinds(text: str, blocks: list[Block]) -> list[tuple[str, str]]:
    return [(block.kind, text[block.start : block.end].strip("\n")) for block in blocks]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# One\n\n### Three\n## Two ##\n", [(1, "One"), (3, "Three"), (2, "Two")]),
        ("#No space\n\n####### seven\n", []),
        ("#\n\n## \n", [(1, ""), (2, "")]),
        ("# C#\n# F # #\n", [(1, "C#"), (1, "F #")]),
        ("#\ttab\n   # three spaces\n\n    # four are code\n", [(1, "tab"), (1, "three spaces")]),
        ("Setext one\n===\n\nTwo\n---\n", [(1, "Setext one"), (2, "Two")]),
        ("A paragraph\nof two lines\n---\n", []),
        ("---\n---\n", []),
        ("text\n\n---\n\nmore\n", []),
        ("```\n# in a fence\n```\n# Real\n", [(1, "Real")]),
        ("~~~~ python\n# in a fence\n~~~\n# still\n~~~~\n# Real\n", [(1, "Real")]),
        ("````\n```\n# nested\n```\n````\n# Real\n", [(1, "Real")]),
        ("```inline``` code\n\n# Real\n", [(1, "Real")]),
        ("```\nnever closed\n# not a heading\n", []),
        ("- item\n# Real\n", [(1, "Real")]),
        ("- item\n\n  # in the item\n\n# Real\n", [(1, "Real")]),
        ("---\ntitle: Front\ntags:\n- a\n- b\n---\n\n# Real\n", [(1, "Real")]),
        ("# `code` and **bold** [link](http://x) <a id='x'></a>{#anchor}\n", [(1, "code and bold link")]),
        ("# One\r\n\r\nTwo\r\n---\r\n", [(1, "One"), (2, "Two")]),
        ("\ufeffx\n", []),
    ],
)  # fmt: skip
def test_markdown_headings(text: str, expected: list[tuple[int, str]]) -> None:
    assert outline(parse_markdown(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Title\n=====\n\nbody\n\nPart\n----\n\nOther\n=====\n", [(1, "Title"), (2, "Part"), (1, "Other")]),
        ("=====\nTitle\n=====\n\nPart\n=====\n", [(1, "Title"), (2, "Part")]),
        ("====\n Inset\n====\n", [(1, "Inset")]),
        ("Long title\n---\n\nbody\n", []),
        ("body\n\n----\n\nbody\n", []),
        ("Code::\n\n    Title\n    =====\n\n    =====\n    Over\n    =====\n", []),
        ("A\n==\n\nB\n~~\n\nC\n^^\n\nD\n~~\n", [(1, "A"), (2, "B"), (3, "C"), (2, "D")]),
        ("Title\r\n=====\r\n\r\nbody\r\n", [(1, "Title")]),
        ("=====  =====\na      b\n=====  =====\n", []),
    ],
)
def test_rst_headings(text: str, expected: list[tuple[int, str]]) -> None:
    assert outline(parse_rst(text)) == expected


def test_heading_path(tokenizer: FastTokenizer) -> None:
    text = "intro\n\n# A\n\na\n\n## B\n\nb\n\n#### D\n\nd\n\n## C\n\nc\n\n# E\n\ne\n"
    assert [(chunk.heading, chunk.embed_text) for chunk in chunks_of(tokenizer, text)] == [
        ((), "intro"),
        (("A",), "# A\n\na"),
        (("A", "B"), "A\n## B\n\nb"),
        (("A", "B", "D"), "A > B\n#### D\n\nd"),
        (("A", "C"), "A\n## C\n\nc"),
        (("E",), "# E\n\ne"),
    ]


def test_headings_without_text_join_the_next_deeper_one(tokenizer: FastTokenizer) -> None:
    text = "# A\n\n## B\n\n### C\n\ntext\n\n## D\n\n## E\n\ntext\n\n# F\n"
    assert [(chunk.heading, chunk.text) for chunk in chunks_of(tokenizer, text)] == [
        (("A", "B", "C"), "# A\n\n## B\n\n### C\n\ntext"),
        (("A", "D"), "## D"),
        (("A", "E"), "## E\n\ntext"),
        (("F",), "# F"),
    ]


def test_the_second_chunk_of_a_section_carries_its_own_heading(tokenizer: FastTokenizer) -> None:
    text = "# Book\n\nx\n\n## Part\n\n" + "\n\n".join(f"Paragraph {n} has a few words." for n in range(8))
    part = [chunk for chunk in chunks_of(tokenizer, text, limit=32) if chunk.heading == ("Book", "Part")]
    assert len(part) > 2
    assert part[0].embed_text.startswith("Book\n## Part\n\nParagraph 0")
    assert all(chunk.embed_text == f"Book > Part\n{chunk.text}" for chunk in part[1:])


def test_headings_cost_at_most_a_quarter(tokenizer: FastTokenizer) -> None:
    """Of a path that costs more, the innermost headings that fit are embedded; `heading` has them all."""
    titles = [f"Heading number {n} has words" for n in range(4)]
    text = "\n\n".join(f"{'#' * (n + 1)} {title}\n\nx" for n, title in enumerate(titles)) + " word" * 100
    last = chunks_of(tokenizer, text, limit=64)[-1]
    assert last.heading == tuple(titles)
    assert last.embed_text == f"{titles[2]} > {titles[3]}\n{last.text}"
    ids = tokenizer.tokenize([f"{titles[2]} > {titles[3]}", f"{titles[1]} > {titles[2]} > {titles[3]}"])
    assert len(ids[0]) <= 64 // 4 < len(ids[1])


def test_a_title_of_any_length_is_repeated_in_part_only() -> None:
    (block,) = parse_markdown("# " + "word " * 10_000)
    assert block.title == ("word " * 60).strip()


# --- blocks and cuts --------------------------------------------------------------------------------------------------
def test_markdown_blocks() -> None:
    text = "para\nline\n\n- one\n\n  more\n- two\n\n| a |\n|---|\n\n    code\n\n    code\n```py\nx\n\ny\n```\nend"
    assert kinds(text, parse_markdown(text)) == [
        ("paragraph", "para\nline"),
        ("list", "- one\n\n  more\n- two"),
        ("table", "| a |\n|---|"),
        ("code", "    code\n\n    code"),
        ("code", "```py\nx\n\ny\n```"),
        ("paragraph", "end"),
    ]


def test_other_blocks() -> None:
    code = "import a\n\ndef f():\n    x\n\n    y\n\nclass B:\n    z\n"
    assert [text for _, text in kinds(code, parse_code(code))] == [
        "import a",
        "def f():\n    x\n\n    y",
        "class B:\n    z",
    ]
    text = "one\ntwo\n \t\nthree\n"
    assert kinds(text, parse_text(text)) == [("paragraph", "one\ntwo"), ("paragraph", "three")]
    rst = "Title\n=====\ntext::\n\n   code\n\ntext\n"
    assert [kind for kind, _ in kinds(rst, parse_rst(rst))] == ["heading", "paragraph", "code", "paragraph"]


@pytest.mark.parametrize("text", ["", " ", "\n", "\r\n\t \n", "\x0c", "\u3000\xa0\u2028"])
@pytest.mark.parametrize("format_", FORMATS)
def test_blank_documents_have_no_chunks(tokenizer: FastTokenizer, text: str, format_: Format) -> None:
    for chunking in ("structure", "whole"):
        chunker = Chunker(tokenizer, 64, chunking=chunking)  # type: ignore[arg-type]
        assert chunker.chunk([(Document("d", text), format_)]) == [[]]
    assert Chunker(tokenizer, 64).chunk([]) == []


SENTENCES = [f"Sentence number {n} tells {'much more ' * (n % 4)}about it." for n in range(40)]


@pytest.mark.parametrize("blank", [" ", "\n", "\r\n", "  \t"])
def test_sentences_that_fit_are_not_cut(tokenizer: FastTokenizer, blank: str) -> None:
    text = blank.join(SENTENCES)
    chunks = chunks_of(tokenizer, text, "text", 64)
    assert len(chunks) > 3
    assert blank.join(chunk.text for chunk in chunks) == text
    assert all(chunk.text.startswith("Sentence") and chunk.text.endswith("it.") for chunk in chunks)


def test_sentences_without_spaces_between_them(tokenizer: FastTokenizer) -> None:
    sentence = "彼は「はい。」と言って、そして家に帰りました。"
    chunks = chunks_of(tokenizer, sentence * 20, "text", 64)
    assert len(chunks) > 5
    assert all(chunk.text.endswith(("。", "。」")) for chunk in chunks)
    assert not any(chunk.text.startswith("」") for chunk in chunks)


def test_neighbours_are_joined_while_they_fit(tokenizer: FastTokenizer) -> None:
    text = "\n\n".join(SENTENCES)
    chunks = chunks_of(tokenizer, text, "text", 64)
    for first, second in itertools.pairwise(chunks):
        joined = text[first.start : second.start + second.text.index(".") + 1]
        (ids,) = tokenizer.tokenize([joined])
        assert len(ids) > 64


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_code_and_tables_that_fit_stay_whole(tokenizer: FastTokenizer, newline: str) -> None:
    fence = newline.join(["```python", "def f(x):", "    y = x. Then", "", "    return y", "```"])
    table = newline.join(["| a | b |", "|---|---|", "| one. Two | three |", "| four | five |"])
    prose = "Some words that fill the chunk before it, up to the limit or nearly so."
    text = (newline * 2).join([prose, fence, prose, table] * 6)
    chunks = [chunk.text for chunk in chunks_of(tokenizer, text, limit=64)]
    assert sum(chunk.count(fence) for chunk in chunks) == 6
    assert sum(chunk.count(table) for chunk in chunks) == 6
    assert len(chunks) > 6


def test_a_long_table_is_cut_between_rows(tokenizer: FastTokenizer) -> None:
    rows = ["| name | value. Text |", "|---|---|", *(f"| row {n}. It | has {n} words in it |" for n in range(60))]
    chunks = chunks_of(tokenizer, "\n".join(rows), limit=64)
    assert len(chunks) > 5
    assert [row for chunk in chunks for row in chunk.text.split("\n")] == rows


def test_a_long_list_is_cut_between_items(tokenizer: FastTokenizer) -> None:
    items = [f"- Item {n}. It goes on\n  over a second line. And ends" for n in range(40)]
    chunks = chunks_of(tokenizer, "\n".join(items), limit=64)
    assert len(chunks) > 5
    assert [f"- Item{item}".rstrip() for chunk in chunks for item in chunk.text.split("- Item")[1:]] == items


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_long_code_is_cut_at_blank_lines_first(tokenizer: FastTokenizer, newline: str) -> None:
    steps = [f"    step_{n} = compute({n}){newline}    check(step_{n}). done" for n in range(30)]
    text = "def main():" + newline + (newline * 2).join(steps)
    chunks = chunks_of(tokenizer, text, "code", 64)
    assert len(chunks) > 5
    assert all(chunk.text.endswith(". done") for chunk in chunks)
    assert all(chunk.text.startswith("step_") for chunk in chunks[1:])


def test_a_line_without_spaces(tokenizer: FastTokenizer) -> None:
    text = "x=1;" * 500
    chunks = chunks_of(tokenizer, text, "code", 64)
    assert "".join(chunk.text for chunk in chunks) == text
    assert_laws(tokenizer, text, chunks, 64)


def test_spans_count_the_characters_of_windows_files(tokenizer: FastTokenizer) -> None:
    lines = ["# Title", "", "First paragraph.", "", "\tcode\twith tabs", "", "Last."]
    unix, windows = (chunks_of(tokenizer, newline.join(lines)) for newline in ("\n", "\r\n"))
    assert [chunk.text for chunk in unix] == [chunk.text.replace("\r\n", "\n") for chunk in windows]
    assert [chunk.heading for chunk in unix] == [chunk.heading for chunk in windows] == [("Title",)]


def test_front_matter_is_text(tokenizer: FastTokenizer) -> None:
    text = "---\ntitle: A page\ntags:\n- a\n---\n\n# Title\n\nbody\n"
    first, second = chunks_of(tokenizer, text)
    assert (first.heading, first.text) == ((), "---\ntitle: A page\ntags:\n- a\n---")
    assert (second.heading, second.text) == (("Title",), "# Title\n\nbody")


# --- whole, other tokenizers, time ------------------------------------------------------------------------------------
def test_whole_documents(tokenizer: FastTokenizer) -> None:
    text = "  \n# A\n\n" + "word " * 300 + "\n\n# B\n\nend\n "
    ((chunk,),) = Chunker(tokenizer, 64, chunking="whole").chunk([(Document("d", text), "markdown")])
    assert chunk.text == chunk.embed_text == text.strip() == text[chunk.start : chunk.end]
    assert chunk.heading == ()
    assert chunk.token_ids is not None
    assert chunk.token_ids.tolist() == tokenizer.tokenize([text])[0].tolist()
    assert chunk.tokens > 300


def test_identity_names_what_changes_the_cuts() -> None:
    identities = {
        chunker_identity(chunking, limit)  # type: ignore[arg-type]
        for limit in (64, 65)
        for chunking in ("structure", "whole")
    }
    assert len(identities) == 4


HEX = "".join(random.Random(0).choices("0123456789abcdef", k=2_000_000))


@pytest.mark.parametrize(
    "text",
    [HEX, f"a{' ' * 2_000_000}b", "# a" + " " * 200_000 + "b", "# " + "[" * 200_000, "." * 300_000, "a\n" * 50_000],
    ids=["hex", "spaces", "heading with spaces", "heading with brackets", "dots", "lines"],
)  # fmt: skip
def test_time_is_linear(tokenizer: FastTokenizer, text: str) -> None:
    """Well under a minute on a busy machine; a quadratic pattern takes hours."""
    start = time.perf_counter()
    chunks = chunks_of(tokenizer, text, "markdown", 256)
    assert time.perf_counter() - start < 30
    assert max(len(chunk.text) for chunk in chunks) <= 256 * CHARACTERS_PER_TOKEN
