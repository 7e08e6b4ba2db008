"""Against sets of characters: the definitions of the publication, word by word."""

from __future__ import annotations

from random import Random

import pytest

from tarragon.errors import InvalidGolden, InvalidInput, InvalidRun
from tarragon.evaluation.golden import golden_set
from tarragon.evaluation.metrics import score
from tarragon.evaluation.spans import chunk_golden, precision_omega, recall_precision_iou, score_spans, union
from tarragon.evaluation.types import Question, Ranked, Run, Span

Characters = set[tuple[str, int]]


def characters(*spans: Span | Ranked) -> Characters:
    return {(span.document_id, place) for span in spans for place in range(span.start, span.end)}


def drawn(chance: Random, count: int) -> list[Span]:
    starts = [(chance.choice("ab"), chance.randint(0, 60)) for _ in range(count)]
    return [Span(document, start, start + chance.randint(1, 30)) for document, start in starts]


def ranked(span: Span) -> Ranked:
    return Ranked(span.document_id, 1.0, f"{span.document_id}:{span.start}-{span.end}", span.start, span.end)


@pytest.mark.parametrize("seed", range(200))
def test_scores_are_those_of_sets_of_characters(seed: int) -> None:
    chance = Random(seed)
    spans, found = drawn(chance, chance.randint(1, 4)), drawn(chance, chance.randint(0, 6))
    wanted, got = characters(*spans), characters(*found)
    hit, read = len(wanted & got), sum(span.end - span.start for span in found)
    expected = (hit / len(wanted), hit / read if read else 0, hit / (read + len(wanted - got)))
    assert recall_precision_iou(spans, found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(50))
def test_precision_omega_is_that_of_sets_of_characters(seed: int) -> None:
    chance = Random(seed)
    golden = golden_set("g", [Question("q", "?", spans=tuple(drawn(chance, chance.randint(1, 3))))])
    chunks = [ranked(span) for span in drawn(chance, 8)]
    wanted = characters(*golden.questions[0].spans)
    holding = characters(*(chunk for chunk in chunks if characters(chunk) & wanted))
    assert precision_omega(golden, chunks)["q"] == pytest.approx(len(wanted & holding) / len(wanted | holding))


def test_by_hand() -> None:
    golden = golden_set(
        "g", [Question("q", "?", spans=(Span("a", 10, 20),)), Question("lost", "?", spans=(Span("a", 0, 1),))]
    )
    ranking = (ranked(Span("a", 0, 15)), ranked(Span("b", 0, 35)), ranked(Span("a", 15, 30)))
    scores = score_spans(Run("r", {"q": ranking}), golden, k=2, chunks=ranking)
    assert {name: values["q"] for name, values in scores.per_question.items()} == pytest.approx(
        {"SpanRecall@2": 5 / 10, "SpanPrecision@2": 5 / 50, "SpanIoU@2": 5 / 55, "SpanPrecisionOmega": 10 / 30}
    )
    assert [values["lost"] for values in scores.per_question.values()] == pytest.approx([0, 0, 0, 1 / 15])
    assert scores.means["SpanRecall@2"].mean == 0.25


def test_text_that_overlapping_chunks_repeat_counts_as_often_as_it_is_read() -> None:
    span = Span("a", 0, 10)
    assert recall_precision_iou([span], [span, span]) == (1.0, 0.5, 0.5)
    assert recall_precision_iou([span, span], [span]) == (1.0, 1.0, 1.0), "what was asked for counts once"


def test_ranges_that_touch_are_one() -> None:
    assert union([(5, 9), (0, 3), (3, 4), (6, 7)]) == [(0, 4), (5, 9)]
    assert union([]) == []


def test_what_cannot_be_scored() -> None:
    golden = golden_set("g", [Question("q", "?", spans=(Span("a", 0, 1),))])
    with pytest.raises(InvalidRun, match="'a' has no span"):
        score_spans(Run("r", {"q": (Ranked("a", 1.0),)}), golden)
    with pytest.raises(InvalidGolden, match="question 'd' has no spans"):
        score_spans(Run("r", {}), golden_set("g", [Question("d", "?", {"a": 1})]))
    with pytest.raises(InvalidInput, match="k=0"):
        score_spans(Run("r", {}), golden, k=0)


def test_chunks_are_judged_by_spans_or_by_their_document() -> None:
    golden = golden_set(
        "g",
        [
            Question("span", "?", spans=(Span("a", 8, 12),)),
            Question("document", "?", {"b": 2, "a": 0}),
            Question("cut away", "?", spans=(Span("a", 90, 95),)),
        ],
    )
    cuts = [Span("a", 0, 8), Span("a", 8, 10), Span("a", 10, 20), Span("b", 0, 5), Span("b", 5, 9)]
    chunks = [ranked(cut) for cut in cuts]
    judged = chunk_golden(golden, chunks)
    assert [dict(question.relevant) for question in judged.questions[:2]] == [
        {"a:8-10": 1, "a:10-20": 1},
        {"b:0-5": 2, "b:5-9": 2, "a:0-8": 0, "a:8-10": 0, "a:10-20": 0},
    ]
    run = Run("r", {question.id: tuple(chunks) for question in golden.questions})
    values = score(run, judged, ["R@2", "R@10"], level="chunk").per_question
    assert values == {
        "R@2": {"span": 0.5, "document": 0.0, "cut away": 0.0},
        "R@10": {"span": 1.0, "document": 1.0, "cut away": 0.0},
    }
    assert judged.digest != golden.digest
