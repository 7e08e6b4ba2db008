"""Runs in files: TREC's six columns, which other tools read, and JSON, which keeps everything.

Other tools sort a TREC run by its scores again, in single precision and ties by id. So scores are written that fall
strictly in single precision: the true one, or the next smaller number where that is not below the one before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tarragon.errors import InvalidRun
from tarragon.evaluation.lines import Place, lines, read_text, whole
from tarragon.evaluation.metrics import Level
from tarragon.evaluation.types import Ranked, Run

_FIELDS: dict[str, type] = {"name": str, "rankings": dict, "configuration": dict, "seconds": dict}


def read_run(path: str | Path) -> Run:
    """A run from JSON (``.json``) or, for any other name, TREC.

    Raises:
        InvalidRun: It is missing or malformed; with file and line.
    """
    path = Path(path)
    return read_json(path) if path.suffix == ".json" else read_trec_run(path)


def write_trec_run(run: Run, path: str | Path, *, level: Level = "document") -> None:
    """Write ``query Q0 document rank score name`` a line, each document or chunk where it first stands.

    Raises:
        InvalidRun: An id is empty or has a space in it, which six columns cannot hold, or a score is not finite.
    """
    tag = "_".join(run.name.split()) or "run"
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for question, ranking in run.rankings.items():
            places = _distinct(ranking, level)
            for rank, (id_, score) in enumerate(zip(places, falling(places.values()), strict=True), start=1):
                file.write(f"{_column(question)} Q0 {_column(id_)} {rank} {score:.9g} {tag}\n")


def read_trec_run(path: str | Path) -> Run:
    """A run of documents from six columns, in the order that trec_eval gives it: by score, ties by falling id.

    The column of ranks is not used. The last column names the run.

    Raises:
        InvalidRun: A line is malformed, or a document stands twice for one query.
    """
    found: dict[str, dict[str, float]] = {}
    name = Path(path).stem
    for place, line in lines(Path(path), InvalidRun):
        fields = line.split()
        if len(fields) != 6:
            place.refuse(f"'query Q0 document rank score name' are needed, these are {len(fields)} fields: {line!r}")
        question, _, document, rank, score, name = fields
        whole(rank, place, "the rank")
        documents = found.setdefault(question, {})
        if document in documents:
            place.refuse(f"document {document!r} stands twice for query {question!r}")
        documents[document] = _number(score, place)
    rankings = {
        question: tuple(Ranked(id_, score) for id_, score in sorted(documents.items(), key=_as_trec_eval, reverse=True))
        for question, documents in found.items()
    }
    return Run(name, rankings)


def write_json(run: Run, path: str | Path) -> None:
    """Write so that `read_json` gives the same run; a place is ``[document, score]``, or that and chunk, start, end."""
    record = {
        "name": run.name,
        "configuration": dict(run.configuration),
        "seconds": dict(run.seconds),
        "rankings": {question: [_row(place) for place in ranking] for question, ranking in run.rankings.items()},
    }
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    Path(path).write_text(f"{text}\n", encoding="utf-8")


def read_json(path: str | Path) -> Run:
    """A run that `write_json` wrote.

    Raises:
        InvalidRun: It is malformed.
    """
    path = Path(path)
    whole_file = Place(path, 0, InvalidRun)
    try:
        record = json.loads(read_text(path, InvalidRun))
    except json.JSONDecodeError as problem:
        Place(path, problem.lineno, InvalidRun).refuse(f"not JSON: {problem.msg} at column {problem.colno}")
    for key, kind in _FIELDS.items():
        if not isinstance(record, dict) or not isinstance(record.get(key), kind):
            whole_file.refuse(f"a run has {key!r}, of type {kind.__name__}")
    rankings = {
        question: tuple(_place(row, question, whole_file) for row in _list(rows, question, whole_file))
        for question, rows in record["rankings"].items()
    }
    return Run(record["name"], rankings, record["configuration"], record["seconds"])


def falling(scores: Iterable[float]) -> Iterator[float]:
    """Scores in single precision, each at most what it was and below the one before."""
    last = np.float32(np.inf)
    for score in scores:
        _check_finite(score)
        last = min(np.float32(score), np.nextafter(last, np.float32(-np.inf)))
        yield float(last)


def _check_finite(score: float) -> None:
    if not math.isfinite(score):
        raise InvalidRun(f"a score of {score} cannot be written; scores must be finite", score=score)


def _distinct(ranking: Iterable[Ranked], level: Level) -> dict[str, float]:
    """Id → score of its first place."""
    found: dict[str, float] = {}
    for place in ranking:
        found.setdefault(place.document_id if level == "document" else place.chunk_id, place.score)
    return found


def _column(id_: str) -> str:
    if not id_ or id_.split() != [id_]:
        raise InvalidRun(f"the id {id_!r} is no column of a TREC run: write JSON instead (write_json)", id=id_)
    return id_


def _as_trec_eval(item: tuple[str, float]) -> tuple[float, str]:
    return float(np.float32(item[1])), item[0]


def _number(text: str, place: Place) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        place.refuse(f"the score must be a finite number, not {text!r}")
    return value


def _row(place: Ranked) -> list[Any]:
    _check_finite(place.score)
    row: list[Any] = [place.document_id, place.score]
    return [*row, place.chunk_id, place.start, place.end] if place.chunk_id or place.end else row


def _list(rows: object, question: str, place: Place) -> list[Any]:
    if not isinstance(rows, list):
        place.refuse(f"the ranking of question {question!r} must be a list, not {type(rows).__name__}")
    return rows


def _place(row: object, question: str, place: Place) -> Ranked:
    kinds: tuple[Any, ...] = (str, (int, float), str, int, int)
    if (
        not isinstance(row, list)
        or len(row) not in (2, 5)
        or not all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=False))
        or not math.isfinite(row[1])
    ):
        place.refuse(
            f"question {question!r}: a place is [document, score] or [document, score, chunk, start, end]: {row!r}"
        )
    return Ranked(row[0], float(row[1]), *row[2:])


__all__ = ["falling", "read_json", "read_run", "read_trec_run", "write_json", "write_trec_run"]
