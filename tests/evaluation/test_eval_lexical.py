"""Answers judged by their words, against SQuAD's own script."""

from __future__ import annotations

import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tarragon.evaluation.answers import Answer, Passage
from tarragon.evaluation.golden import golden_set
from tarragon.evaluation.lexical import (
    contains,
    first_with,
    judge,
    judge_answers,
    means,
    normalised,
    token_f1,
    token_precision,
    tokens,
)
from tarragon.evaluation.types import Question


def squad_normalize_answer(s: str) -> str:
    """As in SQuAD's ``evaluate-v1.1.py``."""

    def remove_articles(text: str) -> str:
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def white_space_fix(text: str) -> str:
        return " ".join(text.split())

    def remove_punc(text: str) -> str:
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    return white_space_fix(remove_articles(remove_punc(s.lower())))


def squad_f1_score(prediction: str, ground_truth: str) -> float:
    """As in SQuAD's ``evaluate-v1.1.py``."""
    prediction_tokens = squad_normalize_answer(prediction).split()
    ground_truth_tokens = squad_normalize_answer(ground_truth).split()
    common = Counter(prediction_tokens) & Counter(ground_truth_tokens)
    num_same = sum(common.values())
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(prediction_tokens)
    recall = 1.0 * num_same / len(ground_truth_tokens)
    return (2 * precision * recall) / (precision + recall)


WORDS = st.lists(
    st.sampled_from(["the", "The", "a", "An", "key", "keys,", "(rotate)", "U.S.", "don't", "$5", "3.14", "thea", "-"])
).map(" ".join)
ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)


@given(st.one_of(WORDS, ASCII))
def test_normal_form_is_that_of_squad(text: str) -> None:
    assert normalised(text) == squad_normalize_answer(text)


@given(st.one_of(WORDS, ASCII), st.one_of(WORDS, ASCII))
def test_f1_is_that_of_squad(answer: str, reference: str) -> None:
    if tokens(answer) or tokens(reference):
        assert token_f1(answer, [reference]) == pytest.approx(squad_f1_score(answer, reference), abs=1e-12)
    else:
        assert token_f1(answer, [reference]) == 1.0, "as in SQuAD 2"


def test_the_best_reference_counts() -> None:
    assert token_f1("the blue key", ["a door", "key"]) == pytest.approx(2 * 1 / (2 + 1))
    assert token_f1("key", []) == 0.0


def test_other_scripts() -> None:
    assert tokens("东京塔 の「Tower」") == ["东", "京", "塔", "の", "tower"]
    assert contains("我在东京塔工作。", "东京塔")
    assert normalised("«Straße», die!") == "straße die"
    assert normalised("e\u0301") == "\xe9"


def test_an_answer_is_contained_by_whole_words_only() -> None:
    assert contains("Rotate the key, then sign.", "key then")
    assert not contains("Rotate the keys", "key")
    assert not contains("anything", "the")
    assert not contains("", "key")


def test_the_first_passage_with_an_answer() -> None:
    assert first_with(["no", "the red door", "red door"], ["blue", "Red door!"]) == 2
    assert first_with(["no"], ["yes"]) is None
    assert first_with([], ["yes"]) is None


def test_precision_against_passages_counts_repeats() -> None:
    assert token_precision("key key door", ["a key", "no"]) == pytest.approx(1 / 3)
    assert token_precision("the", ["key"]) == 0.0


def test_a_whole_judgement() -> None:
    scores = judge("It is the red door.", ["red door", "blue"], ["nothing", "The red door is red."])
    assert (scores.exact, scores.contained, scores.found) == (0.0, 1.0, 0.5)
    assert scores.f1 == pytest.approx(2 * 2 / (4 + 2))
    assert scores.grounded == pytest.approx(3 / 4)
    nothing = judge("", [], ["x"])
    assert (nothing.exact, nothing.f1, nothing.contained, nothing.grounded, nothing.found) == (None,) * 5
    assert judge("Red door", ["the red door"], []).exact == 1.0


def test_means_are_over_what_can_be_told() -> None:
    asked = golden_set(
        "g",
        [
            Question("a", "?", {"d": 1}, answer="red door", alternatives=("the gate",)),
            Question("b", "?", {"d": 1}, answer="blue"),
            Question("c", "?", {"d": 1}),
        ],
    )
    passages = (Passage("d", "", 0, 1, "nothing"), Passage("d", "", 0, 1, "a blue gate"))
    judged = judge_answers(
        asked, [Answer(id_, text, passages) for id_, text in (("a", "gate"), ("b", " "), ("x", "y"))]
    )
    assert list(judged) == ["a", "b"]
    assert judged["a"].exact == 1.0
    assert judged["b"].exact is None, "no answer was written"
    assert judged["b"].found == 0.5
    figures = means(judged.values())
    assert figures["exact"].mean == 1.0
    assert figures["found"].mean == 0.5
    assert means([judge("", [], [])]) == {}
