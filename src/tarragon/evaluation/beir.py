"""Reading a BEIR folder: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``.

The format is that of Thakur et al., "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information Retrieval
Models", 2021. The corpus is read as a stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tarragon.errors import InvalidGolden
from tarragon.evaluation.lines import Place, identifier, json_lines, lines, string, whole
from tarragon.evaluation.questions import golden_set
from tarragon.evaluation.types import GoldenSet, Question
from tarragon.types import Document

HEADER = ["query-id", "corpus-id", "score"]


def corpus_path(folder: Path) -> Path:
    """Where the documents are."""
    return folder / "corpus.jsonl"


def read_corpus(folder: Path) -> Iterator[Document]:
    """Each document as one plain text, title first: what the published scores of dense models are measured on.

    Raises:
        InvalidGolden: A line is malformed, or two have the same id.
    """
    seen: set[str] = set()
    for place, record in json_lines(corpus_path(folder), InvalidGolden):
        document_id = _new(record, place, seen, "document")
        title = string(record, "title", place) if record.get("title") is not None else ""
        yield Document(document_id, f"{title} {string(record, 'text', place)}".strip(), format="text")


def read_beir(folder: str | Path, split: str = "test") -> GoldenSet:
    """The queries of the split that have at least one relevant document, in the order of ``queries.jsonl``.

    Answers are taken from ``metadata``: ``answer`` or ``answers``, where they are strings.

    Raises:
        InvalidGolden: A file is missing or malformed, a judged query is unknown, or no query has an answer.
    """
    folder = Path(folder)
    path = folder / "qrels" / f"{split}.tsv"
    judged = {id_: grades for id_, grades in _judgements(path).items() if max(grades.values()) > 0}
    asked = {question.id: question for question in _queries(folder / "queries.jsonl")}
    questions = [replace(question, relevant=judged[id_]) for id_, question in asked.items() if id_ in judged]
    whole_file = Place(path, 0, InvalidGolden)
    if unknown := sorted(judged.keys() - asked.keys()):
        whole_file.refuse(f"query {unknown[0]!r} is not in queries.jsonl (and {len(unknown) - 1} others)")
    if not questions:
        whole_file.refuse("no query has a relevant document")
    return golden_set(folder.resolve().name, questions)


def read_queries(path: Path) -> Iterator[tuple[str, str]]:
    """Each query's id and text, judged or not, in the order of the file. A text may be blank.

    Raises:
        InvalidGolden: A line is malformed, or two have the same id.
    """
    return ((question.id, question.text) for question in _queries(path))


def _queries(path: Path) -> Iterator[Question]:
    seen: set[str] = set()
    for place, record in json_lines(path, InvalidGolden):
        answers = _answers(record)
        id_ = _new(record, place, seen, "query")
        yield Question(id_, string(record, "text", place), {}, (), answers[0] if answers else None, answers[1:])


def _judgements(path: Path) -> dict[str, dict[str, int]]:
    judgements: dict[str, dict[str, int]] = {}
    for place, line in lines(path, InvalidGolden):
        fields = line.split("\t")
        if place.number == 1:
            if fields != HEADER:
                place.refuse(f"the header {HEADER} is needed, this is {fields}")
            continue
        if len(fields) != 3:
            place.refuse(f"query id, document id and grade are needed, with tabs between them: {fields}")
        grade = whole(fields[2], place, "the grade")
        if judgements.setdefault(fields[0], {}).setdefault(fields[1], grade) != grade:
            place.refuse(f"judged before, with another grade: {fields}")
    return judgements


def _new(record: Mapping[str, Any], place: Place, seen: set[str], kind: str) -> str:
    id_ = identifier(record.get("_id"), place, "_id")
    if id_ in seen:
        place.refuse(f"a second {kind} with the _id {id_!r}")
    seen.add(id_)
    return id_


def _answers(record: Mapping[str, Any]) -> tuple[str, ...]:
    metadata = record.get("metadata")
    if not isinstance(metadata, dict):
        return ()
    value = metadata.get("answer", metadata.get("answers"))
    return tuple(answer for answer in (value if isinstance(value, list) else [value]) if isinstance(answer, str))
