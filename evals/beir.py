"""Reading a BEIR folder: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``.

The format is that of Thakur et al., "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information Retrieval
Models", 2021. The corpus is read as a stream; whatever is malformed is an error that names the file and the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tarragon import Document

HEADER = ["query-id", "corpus-id", "score"]

Judgements = dict[str, dict[str, int]]
"""Query id → document id → grade; 0 is judged not relevant."""


class DatasetError(ValueError):
    """A file of the folder is missing or holds something else; the message has the file and the line."""


@dataclass(frozen=True, slots=True)
class Questions:
    """The queries of a split that have an answer.

    Attributes:
        texts: Query id → text, in the order of ``queries.jsonl``.
        judgements: Of these queries, the grade of each judged document.
    """

    texts: Mapping[str, str]
    judgements: Judgements


def corpus_path(folder: Path) -> Path:
    """Where the documents are."""
    return folder / "corpus.jsonl"


def read_corpus(folder: Path) -> Iterator[Document]:
    """Each document as one plain text, title first: what the published scores of dense models are measured on."""
    path = corpus_path(folder)
    seen: set[str] = set()
    for place, record in _records(path):
        document_id = _identifier(record, place)
        if document_id in seen:
            raise DatasetError(f"{place}: a second document with the _id {document_id!r}")
        seen.add(document_id)
        title = _text(record, "title", place) if record.get("title") is not None else ""
        yield Document(document_id, f"{title} {_text(record, 'text', place)}".strip(), format="text")


def read_questions(folder: Path, split: str) -> Questions:
    """The queries of the split that have at least one relevant document.

    Raises:
        DatasetError: A file is missing or malformed, a judged query is unknown, or no query has an answer.
    """
    path = folder / "qrels" / f"{split}.tsv"
    judgements = {query_id: grades for query_id, grades in _judgements(path).items() if max(grades.values()) > 0}
    texts = {query_id: text for query_id, text in read_queries(folder / "queries.jsonl") if query_id in judgements}
    if unknown := sorted(judgements.keys() - texts.keys()):
        raise DatasetError(f"{path}: query {unknown[0]!r} is not in queries.jsonl (and {len(unknown) - 1} others)")
    if not texts:
        raise DatasetError(f"{path}: no query has a relevant document")
    return Questions(texts, judgements)


def read_queries(path: Path) -> Iterator[tuple[str, str]]:
    """Each query's id and text, in the order of the file. A text may be blank."""
    seen: set[str] = set()
    for place, record in _records(path):
        query_id = _identifier(record, place)
        if query_id in seen:
            raise DatasetError(f"{place}: a second query with the _id {query_id!r}")
        seen.add(query_id)
        yield query_id, _text(record, "text", place)


def _judgements(path: Path) -> Judgements:
    judgements: Judgements = {}
    for number, line in _lines(path):
        fields = line.decode("utf-8-sig" if number == 1 else "utf-8", "replace").rstrip("\r\n").split("\t")
        if number == 1:
            if fields != HEADER:
                raise DatasetError(f"{path}, line 1: the header {HEADER} is needed, this is {fields}")
            continue
        if len(fields) != 3 or not fields[2].lstrip("-").isdecimal():
            raise DatasetError(f"{path}, line {number}: query id, document id and a whole number are needed: {fields}")
        grades = judgements.setdefault(fields[0], {})
        if grades.setdefault(fields[1], int(fields[2])) != int(fields[2]):
            raise DatasetError(f"{path}, line {number}: judged before, with another grade: {fields}")
    return judgements


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a JSON Lines file, after its place for messages."""
    for number, line in _lines(path):
        place = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{place}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise DatasetError(f"{place}: a JSON object is needed, this is a {type(record).__name__}")
        yield place, record


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1."""
    try:
        with path.open("rb") as file:
            yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: there is no such file; a BEIR folder has it") from error


def _identifier(record: Mapping[str, Any], place: str) -> str:
    value = record.get("_id")
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise DatasetError(f"{place}: an '_id' is needed, a string or a whole number, not {value!r}")
    return str(value)


def _text(record: Mapping[str, Any], key: str, place: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise DatasetError(f"{place}: {key!r} must be a string, not {type(value).__name__}")
    return value
