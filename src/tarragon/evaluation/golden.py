"""Golden sets: questions with judgements, checked, identified, read and written.

`read_golden` takes any format that is known; `read_jsonl` and `write_jsonl` are our own, one question a line:

    {"query": "How do I rotate the key?", "relevant": ["keys.md"], "answer": "keyctl rotate"}
    {"query": "Who signs?", "relevant": {"keys.md": 2, "people.md": 1, "walls.md": 0}}
    {"id": "q3", "query": "How long?", "relevant": [{"document": "keys.md", "start": 120, "end": 161}]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tarragon.errors import InvalidGolden
from tarragon.evaluation.beir import read_beir
from tarragon.evaluation.foreign import read_llama_index, read_trec
from tarragon.evaluation.lines import Place, identifier, json_lines, string
from tarragon.evaluation.questions import golden_set
from tarragon.evaluation.types import GoldenSet, Question, Span
from tarragon.identity import digest

__all__ = ["golden_set", "read_beir", "read_golden", "read_jsonl", "read_llama_index", "read_trec", "write_jsonl"]


def read_golden(path: str | Path, *, split: str = "test", queries: str | Path | None = None) -> GoldenSet:
    """Questions with judgements, in the format that the path suggests.

    Args:
        path: A BEIR folder, a ``.jsonl`` golden set, a ``.json`` EmbeddingQAFinetuneDataset of LlamaIndex, or TREC
            judgements.
        split: Of a BEIR folder: which judgements.
        queries: For TREC judgements: a file of ids and texts with a tab between them.

    Raises:
        InvalidGolden: It is missing or malformed; with file and line.
    """
    path = Path(path)
    if queries is not None:
        return read_trec(path, queries)
    if path.is_dir():
        return read_beir(path, split)
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    if path.suffix == ".json":
        return read_llama_index(path)
    raise InvalidGolden(
        f"{path}: neither a BEIR folder nor .jsonl nor .json; TREC judgements need the file of their queries too",
        path=str(path),
    )


def read_jsonl(path: str | Path) -> GoldenSet:
    """A golden set of our own format.

    Each line is an object with ``query`` and ``relevant``: ids of documents, ``{id: grade}``, or spans with
    ``document``, ``start`` and ``end``; a list may mix ids and spans. ``spans`` may stand beside it. Optional: ``id``
    (derived from the query if absent) and ``answer``, a string or a list of equally good ones. Other keys are ignored.

    Raises:
        InvalidGolden: A line is malformed, two have the same id, or there is none.
    """
    path = Path(path)
    questions: dict[str, Question] = {}
    for place, record in json_lines(path, InvalidGolden):
        question = _question(record, place)
        if question.id in questions:
            place.refuse(f"a second question with the id {question.id!r}; give each an 'id' of its own")
        questions[question.id] = question
    if not questions:
        Place(path, 0, InvalidGolden).refuse("no question in it")
    return golden_set(path.stem, questions.values())


def write_jsonl(golden: GoldenSet, path: str | Path) -> None:
    """Write so that `read_jsonl` gives the same questions and the same digest."""
    text = "".join(f"{json.dumps(_record(question), ensure_ascii=False)}\n" for question in golden.questions)
    Path(path).write_text(text, encoding="utf-8")


def _record(question: Question) -> dict[str, Any]:
    record: dict[str, Any] = {"id": question.id, "query": question.text}
    spans = [{"document": span.document_id, "start": span.start, "end": span.end} for span in question.spans]
    if dict(question.relevant) == {span.document_id: 1 for span in question.spans}:
        record["relevant"] = spans
    else:
        record["relevant"] = dict(question.relevant)
        record |= {"spans": spans} if spans else {}
    if question.answer is not None:
        record["answer"] = [question.answer, *question.alternatives] if question.alternatives else question.answer
    return record


def _question(record: Mapping[str, Any], place: Place) -> Question:
    text = string(record, "query", place)
    if not text.strip():
        place.refuse("'query' is blank")
    id_ = identifier(record["id"], place, "id") if "id" in record else digest("question", text).hex()[:12]
    relevant, spans = _judgements(record, place)
    if not spans and max(relevant.values(), default=0) < 1:
        place.refuse("nothing is relevant: name a document with a grade of 1 or more, or a span")
    answers = _answers(record, place)
    return Question(id_, text, relevant, spans, answers[0] if answers else None, answers[1:])


def _judgements(record: Mapping[str, Any], place: Place) -> tuple[dict[str, int], tuple[Span, ...]]:
    if "relevant" not in record:
        place.refuse("'relevant' is missing: a list of ids or spans, or an object of ids and grades")
    value, extra = record["relevant"], record.get("spans", [])
    if not isinstance(value, (dict, list)) or not isinstance(extra, list):
        place.refuse("'relevant' must be a list or an object, and 'spans' a list")
    spans = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    found = tuple(_span(item, place) for item in [*spans, *extra])
    if isinstance(value, dict):
        return {identifier(id_, place, "relevant"): _grade(grade, place) for id_, grade in value.items()}, found
    ids = [identifier(item, place, "relevant") for item in value if not isinstance(item, dict)]
    return dict.fromkeys([*ids, *(span.document_id for span in found)], 1), found


def _span(item: object, place: Place) -> Span:
    if not isinstance(item, dict):
        place.refuse(f"a span is an object with 'document', 'start' and 'end', not {item!r}")
    start, end = item.get("start"), item.get("end")
    if type(start) is not int or type(end) is not int or not 0 <= start < end:
        place.refuse(f"a span needs whole numbers 0 ≤ start < end, not {start!r} and {end!r}")
    return Span(identifier(item.get("document"), place, "document"), start, end)


def _grade(value: object, place: Place) -> int:
    if type(value) is not int:
        place.refuse(f"a grade must be a whole number, not {value!r}")
    return value


def _answers(record: Mapping[str, Any], place: Place) -> tuple[str, ...]:
    value = record.get("answer")
    if value is None:
        return ()
    answers = value if isinstance(value, list) else [value]
    if any(not isinstance(answer, str) for answer in answers):
        place.refuse(f"'answer' must be a string or a list of strings, not {value!r}")
    return tuple(answers)
