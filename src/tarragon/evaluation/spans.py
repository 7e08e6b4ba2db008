"""Retrieval judged by characters: of the spans that answer a question, how much was found, and in how much text.

As in Smith and Troynikov, "Evaluating Chunking Strategies for Retrieval", Chroma, 2024, whose code counts characters
and calls them tokens. Of one question, with S the characters of its spans and C the retrieved chunks:

    recall    = |S ∩ ⋃C| / |S|
    precision = |S ∩ ⋃C| / Σ|c|                   text that overlapping chunks repeat counts as often as it is there
    IoU       = |S ∩ ⋃C| / (Σ|c| + |S − ⋃C|)
    precision Ω = |S ∩ ⋃H| / |⋃H ∪ S|, H: all chunks of the corpus that hold any of S; what perfect retrieval would get

Since only characters are counted, chunkers can be compared whatever their chunks are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from tarragon.errors import InvalidGolden, InvalidInput, InvalidRun
from tarragon.evaluation.questions import golden_set
from tarragon.evaluation.significance import bootstrap_intervals
from tarragon.evaluation.types import GoldenSet, Question, Ranked, Run, Scores, Span

RETRIEVED = 5
"""Chunks that count, as in the publication."""

Range: TypeAlias = tuple[int, int]
"""First character and one past the last."""


def score_spans(run: Run, golden: GoldenSet, *, k: int = RETRIEVED, chunks: Iterable[Ranked] | None = None) -> Scores:
    """``SpanRecall@k``, ``SpanPrecision@k`` and ``SpanIoU@k`` of each question's first k chunks.

    Args:
        run: Of chunks. A question without hits has 0.
        golden: Every question with spans.
        k: Chunks that count.
        chunks: All chunks of the corpus: then ``SpanPrecisionOmega`` too, which depends on no search.

    Raises:
        InvalidInput: ``k`` is not positive.
        InvalidGolden: A question has no spans.
        InvalidRun: A place has no span: the run is of documents.
    """
    if k < 1:
        raise InvalidInput(f"k={k} must be positive", k=k)
    names = [f"SpanRecall@{k}", f"SpanPrecision@{k}", f"SpanIoU@{k}"]
    values: dict[str, dict[str, float]] = {name: {} for name in names}
    for question in golden.questions:
        _has_spans(question)
        found = [_chunk(place) for place in run.rankings.get(question.id, ())[:k]]
        for name, value in zip(names, recall_precision_iou(question.spans, found), strict=True):
            values[name][question.id] = value
    if chunks is not None:
        values["SpanPrecisionOmega"] = precision_omega(golden, chunks)
    intervals = bootstrap_intervals([list(by_question.values()) for by_question in values.values()])
    return Scores(run.name, golden.digest, values, dict(zip(values, intervals, strict=True)))


def recall_precision_iou(spans: Iterable[Span], found: Iterable[Span]) -> tuple[float, float, float]:
    """Of one question; 0 where nothing was found."""
    wanted, chunks = _by_document(spans), list(found)
    got = _by_document(chunks)
    hit = sum(common(ranges, got.get(document, ())) for document, ranges in wanted.items())
    total = sum(length(ranges) for ranges in wanted.values())
    read = sum(chunk.end - chunk.start for chunk in chunks)
    return hit / total, hit / read if read else 0.0, hit / (read + total - hit)


def precision_omega(golden: GoldenSet, chunks: Iterable[Ranked]) -> dict[str, float]:
    """Question → its precision if exactly the chunks that hold any of its spans were found.

    Raises:
        InvalidGolden: A question has no spans.
    """
    by_document = _chunks_of_documents(chunks)
    values = {}
    for question in golden.questions:
        _has_spans(question)
        wanted = _by_document(question.spans)
        holding = _by_document(
            chunk
            for document, ranges in wanted.items()
            for chunk in map(_chunk, by_document.get(document, ()))
            if common(ranges, ((chunk.start, chunk.end),))
        )
        hit = sum(common(ranges, holding.get(document, ())) for document, ranges in wanted.items())
        everything = sum(length(union([*ranges, *holding.get(document, ())])) for document, ranges in wanted.items())
        values[question.id] = hit / everything
    return values


def chunk_golden(golden: GoldenSet, chunks: Iterable[Ranked]) -> GoldenSet:
    """The same questions with chunks judged, for ``score(..., level="chunk")``.

    A chunk is relevant if it holds any character of a span; of a question without spans, if its document is, with the
    same grade. A question of which no chunk holds anything keeps an entry that nothing can find, so that it counts 0.

    Args:
        golden: With spans, documents, or some of both.
        chunks: All chunks of the corpus.
    """
    by_document = _chunks_of_documents(chunks)
    return golden_set(
        golden.name,
        [replace(question, relevant=_judged(question, by_document), spans=()) for question in golden.questions],
    )


def union(ranges: Iterable[Range]) -> list[Range]:
    """The same characters in ranges that do not touch, in order."""
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def length(ranges: Iterable[Range]) -> int:
    """Characters in ranges that do not overlap."""
    return sum(end - start for start, end in ranges)


def common(first: Sequence[Range], second: Sequence[Range]) -> int:
    """Characters in both, each of them without overlaps."""
    return sum(max(0, min(e, end) - max(s, start)) for s, e in first for start, end in second)


def _judged(question: Question, by_document: Mapping[str, Sequence[Ranked]]) -> dict[str, int]:
    if question.spans:
        wanted = _by_document(question.spans)
        judged = {
            chunk.chunk_id: 1
            for document, ranges in wanted.items()
            for chunk in by_document.get(document, ())
            if common(ranges, ((chunk.start, chunk.end),))
        }
    else:
        judged = {
            chunk.chunk_id: grade
            for document, grade in question.relevant.items()
            for chunk in by_document.get(document, ())
        }
    return judged if max(judged.values(), default=0) > 0 else {**judged, f"in no chunk: {question.id}": 1}


def _chunks_of_documents(chunks: Iterable[Ranked]) -> dict[str, list[Ranked]]:
    by_document: dict[str, list[Ranked]] = defaultdict(list)
    for chunk in chunks:
        by_document[chunk.document_id].append(chunk)
    return by_document


def _by_document(spans: Iterable[Span]) -> dict[str, list[Range]]:
    ranges: dict[str, list[Range]] = defaultdict(list)
    for span in spans:
        ranges[span.document_id].append((span.start, span.end))
    return {document: union(found) for document, found in ranges.items()}


def _chunk(place: Ranked) -> Span:
    if not place.start < place.end:
        raise InvalidRun(
            f"a place of document {place.document_id!r} has no span; only runs of chunks can be scored by spans",
            document_id=place.document_id,
        )
    return Span(place.document_id, place.start, place.end)


def _has_spans(question: Question) -> None:
    if not question.spans:
        raise InvalidGolden(f"question {question.id!r} has no spans; give each 'relevant' spans", id=question.id)
