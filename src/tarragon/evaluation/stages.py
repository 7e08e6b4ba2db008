"""A search, stage by stage: where quality is won or lost, what could still be won, and what each stage costs.

What a stage is worth is read from the one search that a user makes: `Hits.rankings` has every stage's own ranking. Each
leg is also asked alone, for what it costs: an engine that answers all legs in one call does not say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from tarragon.evaluation.lookup import Chunks
from tarragon.evaluation.metrics import ids, measure, score
from tarragon.evaluation.running import K, configuration_of, ranked, settings_of, words_of
from tarragon.evaluation.significance import bootstrap_interval
from tarragon.evaluation.types import GoldenSet, Interval, Question, Run, Scores
from tarragon.index import Index
from tarragon.receipts import Hits
from tarragon.recipe import Mode, SearchRecipe
from tarragon.retriever import Retriever

METRICS = ("nDCG@10", "R@10", "R@100")

LEGS: tuple[Mode, ...] = ("dense", "lexical", "sparse")
EXACT = "dense, no first pass"
HITS = "hits"

_ORDER = ("embed", "dense", EXACT, "lexical", "sparse", "legs", "fused", "late", "serve")
"""Of the rows. What comes after it, rerankers for instance, stands as the search did it; hits are last."""


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage of a search.

    Attributes:
        name: A leg (``dense``, ``lexical``, ``sparse``; ``dense, no first pass``), a step of the search as its receipt
            has it (``embed``, ``legs``, ``fused``, ``late``, ``serve``, ``rerank: <model>``, ...), or ``hits``.
        means: Metric → what the ranking after this stage is worth; empty where it ranks nothing.
        p50: Seconds that half of the questions take at most. Of a leg: of the engine, if it is asked alone. Of hits: of
            the whole search. None where there is no time of its own.
        p95: 95 of 100 questions.
        p99: 99 of 100.
        candidates: Passages that come out of it, on average.
        tokens: That a model reads in it, on average: of the question, and for a reranker of question and passages. Of
            hits: of the passages that are handed on.
        calls: Requests to the engine, on average. One that must look deeper through a tie counts once.
    """

    name: str
    means: Mapping[str, Interval] = field(default_factory=dict)
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    candidates: float = 0.0
    tokens: float = 0.0
    calls: float = 0.0


@dataclass(frozen=True, slots=True)
class Stages:
    """A run, stage by stage.

    Attributes:
        run: The run itself.
        rows: In the order in which a search does them; hits come last.
        scores: Of each stage that ranks, named after it, question by question.
        ceilings: Stage → mean share of the relevant documents that are among what it was given to rank: the recall that
            a perfect one would have. ``fused`` is given what all legs found.
    """

    run: Run
    rows: tuple[StageRow, ...]
    scores: tuple[Scores, ...]
    ceilings: Mapping[str, Interval]


@dataclass(slots=True)
class _Seen:
    """What was seen of one stage, by question.

    Attributes:
        rankings: Chunk ids after it, best first.
        given: Chunk ids that it ranked.
        read: Chunk ids that a model read.
        seconds: That it took.
        candidates: That came out of it.
        calls: Of the engine.
    """

    rankings: dict[str, list[str]] = field(default_factory=dict)
    given: dict[str, list[str]] = field(default_factory=dict)
    read: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    candidates: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)


_Notes = defaultdict[str, _Seen]


def stages(
    source: Index | Retriever,
    golden: GoldenSet,
    *,
    k: int = K,
    recipe: SearchRecipe | None = None,
    metrics: Sequence[str] = METRICS,
    name: str = "",
) -> Stages:
    """Ask the questions one by one, as a user does, and look at each stage.

    An index keeps vectors of questions that it was asked before, so that embedding costs nothing the second time.

    Args:
        source: An index, or a retriever with its filter and scope.
        golden: The questions.
        k: Hits of each.
        recipe: How to search. None: as the retriever says, else as the index was tuned.
        metrics: What each ranking is worth.
        name: Of the run.
    """
    index = source if isinstance(source, Index) else source.index
    ask = source.search if isinstance(source, Index) else source.retrieve
    settings, chunks, notes = settings_of(source, recipe), Chunks(index), _Notes(_Seen)
    index.warm_up(settings)  # else the first question would count the loading of models
    rankings = {}
    for question in golden.questions:
        hits = ask(question.text, k, recipe=settings)
        rankings[question.id] = tuple(map(ranked, hits))
        chunks.learn(rankings[question.id])
        _note_times(notes, question.id, hits)
        _note_rankings(notes, question.id, hits.rankings(), max(k, settings.depth))
        for leg, alone in _alone(hits, settings):
            found = ask(question.text, k, recipe=alone)
            chunks.learn(map(ranked, found))
            _note_leg(notes[leg], leg, question.id, found)
    chunks.look_up(id_ for seen in notes.values() for ranking in seen.rankings.values() for id_ in ranking)
    run = Run(name or words_of(settings), rankings, configuration_of(index, settings, k), notes[HITS].seconds)
    scores = {stage: _scores(stage, seen, chunks, golden, metrics) for stage, seen in notes.items() if seen.rankings}
    order = sorted(notes, key=lambda stage: _ORDER.index(stage) if stage in _ORDER else 99 + (stage == HITS))
    rows = tuple(_row(stage, notes[stage], scores.get(stage), chunks, golden) for stage in order)
    ceilings = {stage: _ceiling(notes[stage], chunks, golden) for stage in order if notes[stage].given}
    return Stages(run, rows, tuple(scores[stage] for stage in order if stage in scores), ceilings)


# --- looking at a search ----------------------------------------------------------------------------------------------
def _alone(hits: Hits, recipe: SearchRecipe) -> Iterator[tuple[str, SearchRecipe]]:
    """Each leg of a search by itself, without anything after it; and the dense one without its first pass."""
    bare = replace(recipe, rerankers=(), late=False, diversity=0.0, per_document=None, min_score=None, words=None)
    for leg in LEGS:
        if leg in hits.receipt.legs:
            yield leg, replace(bare, mode=leg)
    if "first pass" in hits.receipt.spaces:
        yield EXACT, replace(bare, mode="dense", first_pass=False)


def _note_times(notes: _Notes, question: str, hits: Hits) -> None:
    """What each step of a search took; one that was done again counts as often."""
    for step in hits.receipt.stages:
        seen = notes["fused" if step.name == "fuse" else step.name]
        seen.seconds[question] = seen.seconds.get(question, 0.0) + step.seconds
        seen.candidates[question] = 0 if step.name == "embed" else step.candidates
        seen.calls[question] = seen.calls.get(question, 0) + (step.name == "legs")
    whole = notes[HITS]
    whole.seconds[question], whole.candidates[question] = hits.receipt.seconds, len(hits)
    whole.calls[question] = sum(step.name == "legs" for step in hits.receipt.stages)
    whole.rankings[question] = whole.read[question] = [hit.chunk_id for hit in hits]


def _note_rankings(
    notes: _Notes, question: str, rankings: Mapping[str, Sequence[tuple[str, float]]], depth: int
) -> None:
    """The whole ranking after each stage; of a leg, what it found itself."""
    for leg in LEGS:
        if leg in rankings:
            notes[leg].rankings[question] = [id_ for id_, _ in islice(rankings[leg], depth)]
    order: list[str] = []
    for stage in ("fused", "late"):
        if stage in rankings:
            scored = [id_ for id_, _ in rankings[stage]]
            notes[stage].given[question], order = order or scored, scored
            notes[stage].rankings[question] = order
    for stage in rankings:
        if stage not in (*LEGS, "fused", "late"):
            scores = dict(rankings[stage])
            given = [id_ for id_ in order if id_ in scores]
            order = sorted(given, key=lambda id_: -scores[id_]) + [id_ for id_ in order if id_ not in scores]
            notes[stage].given[question] = notes[stage].read[question] = given
            notes[stage].rankings[question] = order


def _note_leg(seen: _Seen, leg: str, question: str, hits: Hits) -> None:
    """A leg that was asked alone."""
    steps = [step for step in hits.receipt.stages if step.name == "legs"]
    seen.seconds[question], seen.calls[question] = sum(step.seconds for step in steps), len(steps)
    seen.candidates[question] = hits.receipt.legs.get("dense" if leg == EXACT else leg, 0)
    if leg == EXACT:
        seen.rankings[question] = [hit.chunk_id for hit in hits]


# --- in figures -------------------------------------------------------------------------------------------------------
def _scores(stage: str, seen: _Seen, chunks: Chunks, golden: GoldenSet, metrics: Sequence[str]) -> Scores:
    rankings = {question: chunks.places(ranking) for question, ranking in seen.rankings.items()}
    return score(Run(stage, rankings), golden, metrics)


def _row(stage: str, seen: _Seen, scores: Scores | None, chunks: Chunks, golden: GoldenSet) -> StageRow:
    asked = len(golden.questions)
    times = np.percentile(list(seen.seconds.values()), [50, 95, 99]).tolist() if seen.seconds else [None] * 3
    p50, p95, p99 = times
    candidates = seen.candidates or {question: len(ranking) for question, ranking in seen.rankings.items()}
    tokens = sum(_tokens(stage, seen, chunks, question) for question in golden.questions)
    means = {} if scores is None else scores.means
    calls = sum(seen.calls.values())
    return StageRow(stage, means, p50, p95, p99, sum(candidates.values()) / asked, tokens / asked, calls / asked)


def _tokens(stage: str, seen: _Seen, chunks: Chunks, question: Question) -> int:
    if stage == "embed":
        return chunks.tokens_of(question.text)
    read = seen.read.get(question.id, [])
    own = 0 if stage == HITS else len(read) * chunks.tokens_of(question.text)
    return own + chunks.tokens(read)


def _ceiling(seen: _Seen, chunks: Chunks, golden: GoldenSet) -> Interval:
    given = {question: ids(chunks.places(chosen)) for question, chosen in seen.given.items()}
    depth = max(1, *(len(one) for one in given.values()))
    (values,) = measure(given, {one.id: one.relevant for one in golden.questions}, [f"R@{depth}"]).values()
    return bootstrap_interval(list(values.values()))
