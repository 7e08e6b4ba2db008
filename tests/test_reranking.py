"""The stage logic: its laws on random rankings, and each way in which a reranker can let it down."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tarragon.errors import RerankingFailed
from tarragon.protocols import RerankScores
from tarragon.reranking import Deadline, Ranking, Reranked, Step, rerank


class Clock:
    """Moves only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Table:
    """Scores by passage, each for a price in seconds; asks before each passage whether time is over."""

    identity: Mapping[str, str] = {}

    def __init__(
        self, scores: Mapping[str, float], *, name: str = "table", clock: Clock | None = None, cost: float = 0
    ):
        self.name = name
        self._scores = scores
        self._clock = clock
        self._cost = cost
        self.asked: list[list[str]] = []

    def score(
        self, query: str, passages: Sequence[str], *, is_over: Callable[[], bool] = lambda: False
    ) -> RerankScores:
        self.asked.append(list(passages))
        scores: list[float | None] = [None] * len(passages)
        for place, passage in enumerate(passages):
            if is_over():
                break
            if self._clock:
                self._clock.now += self._cost
            scores[place] = self._scores[passage]
        return RerankScores(scores, tokens=len(passages), truncated=3 if len(passages) > 3 else 0)


class Broken(Table):
    """Does what it is told to."""

    def __init__(self, act: Callable[[int], RerankScores]) -> None:
        super().__init__({}, name="broken")
        self._act = act

    def score(
        self, query: str, passages: Sequence[str], *, is_over: Callable[[], bool] = lambda: False
    ) -> RerankScores:
        return self._act(len(passages))


def fused(count: int) -> tuple[Ranking, dict[UUID, str]]:
    """A ranking of a, b, c, ... and their texts."""
    ids = [UUID(int=place * 7919 % 101 + 1) for place in range(count)]
    return [(id_, 1 - place / 100) for place, id_ in enumerate(ids)], {
        id_: chr(ord("a") + place) for place, id_ in enumerate(ids)
    }


def letters(ranking: Ranking, texts: Mapping[UUID, str]) -> str:
    return "".join(texts[id_] for id_, _ in ranking)


def run(scores: str | Mapping[str, float], count: int, depth: int) -> tuple[str, Reranked]:
    """``scores`` names the letters from the best to the worst."""
    table = {letter: -float(place) for place, letter in enumerate(scores)} if isinstance(scores, str) else scores
    ranking, texts = fused(count)
    result = rerank("q", ranking, texts, [Step(Table(table), depth)])
    return letters(result.ranking, texts), result


SCORE = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e30, 1e30))


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, list[tuple[int, list[float]]]]:
    """How many passages, and for each step its depth and a score for each passage."""
    count = draw(st.integers(0, 12))
    scores = st.lists(SCORE, min_size=count, max_size=count)
    return count, draw(st.lists(st.tuples(st.integers(1, 15), scores), max_size=3))


def tables(steps: list[tuple[int, list[float]]], **options: object) -> list[Step]:
    return [
        Step(Table({chr(ord("a") + place): score for place, score in enumerate(scores)}, **options), depth)  # type: ignore[arg-type]
        for depth, scores in steps
    ]


def obvious(text: str, steps: list[tuple[int, list[float]]]) -> str:
    """The cascade in the words of the docstring: a step sorts the first so many, by score and then by place."""
    for depth, scores in steps:
        keyed = [(-scores[ord(letter) - ord("a")], place, letter) for place, letter in enumerate(text[:depth])]
        text = "".join(letter for _, _, letter in sorted(keyed)) + text[depth:]
    return text


@given(cases())
def test_a_cascade_is_one_sort_of_the_best_after_the_other(
    case: tuple[int, list[tuple[int, list[float]]]],
) -> None:
    count, steps = case
    ranking, texts = fused(count)
    result = rerank("q", ranking, texts, tables(steps))
    assert letters(result.ranking, texts) == obvious(letters(ranking, texts), steps)
    assert sorted(id_ for id_, _ in result.ranking) == sorted(id_ for id_, _ in ranking)
    assert not result.degraded
    assert [stage.candidates for stage in result.stages] == [min(depth, count) for depth, _ in steps]


@given(cases())
def test_scores_never_rise_and_are_the_last_rerankers_own(case: tuple[int, list[tuple[int, list[float]]]]) -> None:
    count, steps = case
    ranking, texts = fused(count)
    result = rerank("q", ranking, texts, tables(steps))
    scores = [score for _, score in result.ranking]
    assert all(first >= second for first, second in pairwise(scores))
    if not steps or not count:
        assert result.ranking == ranking
        return
    depth, own = steps[-1]
    for id_, score in result.ranking[:depth]:
        assert score == own[ord(texts[id_]) - ord("a")]
    behind = scores[min(depth, count) - 1 :]
    assert all(first > second for first, second in pairwise(behind))
    assert sorted(result.ranking, key=lambda entry: -entry[1]) == result.ranking  # as a caller that sorts by score does


@given(cases(), st.integers(0, 40))
def test_a_budget_scores_the_best_and_keeps_the_rest_in_order(
    case: tuple[int, list[tuple[int, list[float]]]], seconds: int
) -> None:
    count, steps = case
    clock = Clock()
    ranking, texts = fused(count)
    budgeted = tables(steps, clock=clock, cost=1.0)
    result = rerank("q", ranking, texts, budgeted, budget_ms=seconds * 1000, clock=clock)
    left, expected = seconds, []
    for depth, scores in steps:
        expected.append((min(left, depth, count), scores))
        left -= min(left, depth, count)
    assert [stage.candidates for stage in result.stages] == [scored for scored, _ in expected]
    assert letters(result.ranking, texts) == obvious(letters(ranking, texts), expected)
    assert [stage.seconds for stage in result.stages] == [scored for scored, _ in expected]
    assert len(result.degraded) == sum(scored == 0 for scored, _ in expected if count)


def test_the_examples_of_the_docstring() -> None:
    text, result = run("cab", 5, depth=3)
    assert text == "cabde"
    assert [score for _, score in result.ranking] == [0, -1, -2, -3, -4]
    assert run({"a": 1, "b": 2, "c": 2, "d": 1}, 4, depth=4)[0] == "bcad"


def test_each_stage_is_told_with_its_scores() -> None:
    ranking, texts = fused(8)
    small = Table({letter: float(ord(letter)) for letter in "abcdefgh"}, name="small")
    large = Table({letter: -float(ord(letter)) for letter in "abcdefgh"}, name="large")
    result = rerank("q", ranking, texts, [Step(small, 6), Step(large, 2), Step(small, 2)])
    assert small.asked[0] == list("abcdef")
    assert large.asked == [["f", "e"]]
    assert [stage.name for stage in result.stages] == ["rerank: small", "rerank: large", "rerank: small (2)"]
    assert {name: {texts[id_] for id_ in scores} for name, scores in result.scores.items()} == {
        "rerank: small": set("abcdef"),
        "rerank: large": {"e", "f"},
        "rerank: small (2)": {"e", "f"},
    }
    assert result.stages[0].detail == "3 tokens cut"
    assert result.truncated == 3


def test_what_a_budget_leaves_out_is_told() -> None:
    clock = Clock()
    ranking, texts = fused(6)
    table = Table({letter: float(ord(letter)) for letter in "abcdef"}, clock=clock, cost=0.01)
    result = rerank("q", ranking, texts, [Step(table, 6)], budget_ms=40, clock=clock)
    assert result.stages[0].detail == "4 of 6 in the time given, 3 tokens cut"
    assert letters(result.ranking, texts) == "dcbaef"
    assert result.degraded == ()


def test_without_time_nothing_is_asked_and_the_ranking_stands() -> None:
    ranking, texts = fused(4)
    table = Table(dict.fromkeys("abcd", 1.0))
    result = rerank("q", ranking, texts, [Step(table, 4)], budget_ms=0)
    assert table.asked == []
    assert result.ranking == ranking
    assert len(result.degraded) == 1
    assert "no time" in result.degraded[0]
    with pytest.raises(RerankingFailed, match="no time"):
        rerank("q", ranking, texts, [Step(table, 4)], budget_ms=0, on_failure="raise")


def fail(error: Exception) -> Callable[[int], RerankScores]:
    def act(count: int) -> RerankScores:
        raise error

    return act


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (fail(RerankingFailed("the server is gone")), "the server is gone"),
        (fail(KeyError("x")), "KeyError"),
        (lambda count: RerankScores([math.nan] * count), "no finite numbers"),
        (lambda count: RerankScores([math.inf] + [1.0] * (count - 1)), "1 of 4"),
        (lambda count: RerankScores([1.0] * (count - 1)), "3 scores for 4"),
        (lambda count: RerankScores([None] * count), "none of 4"),
    ],
)
def test_a_failing_step_is_left_out_or_raised(act: Callable[[int], RerankScores], said: str) -> None:
    ranking, texts = fused(4)
    broken = Step(Broken(act), 4)
    result = rerank("q", ranking, texts, [broken])
    assert result.ranking == ranking
    assert len(result.degraded) == 1
    assert said in result.degraded[0]
    assert "rerank: broken" in result.degraded[0]
    assert result.stages[0].candidates == 0
    with pytest.raises(RerankingFailed, match=said):
        rerank("q", ranking, texts, [broken], on_failure="raise")


def test_the_steps_beside_a_failing_one_count() -> None:
    ranking, texts = fused(4)
    good = Step(Table({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}), 3)
    broken = Step(Broken(fail(RerankingFailed("gone"))), 4)
    alone = rerank("q", ranking, texts, [good]).ranking
    assert rerank("q", ranking, texts, [broken, good]).ranking == alone
    assert rerank("q", ranking, texts, [good, broken]).ranking == alone
    assert letters(alone, texts) == "cbad"


def test_passages_without_a_text_stay_behind_those_that_were_scored() -> None:
    ranking, texts = fused(4)
    del texts[ranking[0][0]]
    table = Table({"b": 1.0, "c": 2.0, "d": 3.0})
    result = rerank("q", ranking, texts, [Step(table, 3)])
    assert [id_ for id_, _ in result.ranking] == [ranking[place][0] for place in (2, 1, 0, 3)]
    assert table.asked == [["b", "c"]]
    nothing = rerank("q", ranking, {}, [Step(table, 3)])
    assert nothing.ranking == ranking
    assert not nothing.degraded


def test_partial_scores_anywhere_are_put_ahead() -> None:
    ranking, texts = fused(4)
    result = rerank("q", ranking, texts, [Step(Broken(lambda count: RerankScores([None, 1.0, None, 2.0])), 4)])
    assert letters(result.ranking, texts) == "dbac"
    assert [score for _, score in result.ranking] == [2, 1, 0, -1]


def test_deadlines() -> None:
    clock = Clock()
    deadline = Deadline(2, clock)
    assert not deadline()
    assert deadline.remaining() == 2
    clock.now += 1.5
    assert deadline.remaining() == 0.5
    clock.now += 1
    assert deadline()
    assert deadline.remaining() == 0


def test_without_a_budget_a_reranker_is_free_to_choose_its_order() -> None:
    given: list[object] = []

    class Noting(Table):
        def score(self, query: str, passages: Sequence[str], **options: object) -> RerankScores:
            given.append(options)
            return RerankScores([1.0] * len(passages))

    ranking, texts = fused(3)
    rerank("q", ranking, texts, [Step(Noting({}), 3)])
    rerank("q", ranking, texts, [Step(Noting({}), 3)], budget_ms=1000)
    assert given[0] == {}
    assert isinstance(given[1]["is_over"], Deadline)  # type: ignore[index]
