"""Pairs against the tokenizers library's own encoding of the same two texts; the memo and the batches around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_rerankers import byte_level, word_piece
from tokenizers import Tokenizer

from tarragon.rerankers.batching import WIDTH_STEP, batches, groups, never, remaining
from tarragon.rerankers.memo import Memo
from tarragon.rerankers.pairs import PairTokenizer, longest_first, probes
from tarragon.reranking import Deadline
from tarragon.types import IntArray

TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.lists(st.sampled_from(["sign", "login", "größe", "漢字", "مرحبا", "f(x)", "\n"]), max_size=60).map(" ".join),
)


def librarys(tokenizer: Tokenizer, limit: int, side: str, pair: tuple[str, str]) -> tuple[list[int], list[int]]:
    own = Tokenizer.from_str(tokenizer.to_str())
    own.enable_truncation(limit, strategy="longest_first", direction=side)
    encoding = own.encode(*pair)
    return encoding.ids, encoding.type_ids


@pytest.mark.parametrize("make", [word_piece, byte_level])
@pytest.mark.parametrize("side", ["left", "right"])
@given(query=TEXT, passage=TEXT, limit=st.integers(4, 70))
def test_pairs_are_the_librarys(make: Any, side: str, query: str, passage: str, limit: int) -> None:
    tokenizer = make()[0]
    pair = PairTokenizer(tokenizer, limit, cuts_left=side == "left").pairs(query, [passage])[0]
    assert (pair.ids.tolist(), pair.types.tolist()) == librarys(tokenizer, limit, side, (query, passage))
    assert pair.truncated == len(tokenizer.encode(query, passage).ids) - len(pair.ids)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 50))
def test_the_longest_loses_first_token_by_token(first: int, second: int, room: int) -> None:
    sizes = [first, second]
    while sum(sizes) > room:
        sizes[0 if sizes[0] > sizes[1] else 1] -= 1
    kept = longest_first(first, second, room)
    assert sum(kept) == sum(sizes)
    assert max(abs(kept[0] - sizes[0]), abs(kept[1] - sizes[1])) <= 1  # the library's odd token, not ours to choose
    assert kept[0] <= first
    assert kept[1] <= second


def test_the_probes_reach_beyond_the_limit_on_either_side() -> None:
    tokenizer = word_piece()[0]
    cut = [len(tokenizer.encode(*pair).ids) > 40 for pair in probes(40)]
    assert True in cut
    assert False in cut


def test_a_passage_is_tokenised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = PairTokenizer(word_piece()[0], 64)
    tokenised: list[str] = []
    own = PairTokenizer._tokenize

    def counting(self: PairTokenizer, texts: Sequence[str]) -> list[IntArray]:
        tokenised.extend(texts)
        return own(self, texts)

    monkeypatch.setattr(PairTokenizer, "_tokenize", counting)
    pairs.pairs("first question", ["login cookie", "password", "login cookie"])
    assert sorted(tokenised) == ["first question", "login cookie", "password"]
    pairs.pairs("second question", ["password", "session", "login cookie"])
    assert sorted(tokenised[3:]) == ["second question", "session"]


def arrays(texts: list[str]) -> list[IntArray]:
    return [np.full(100, len(text), dtype=np.int32) for text in texts]


def test_a_memo_stays_within_its_bytes_and_gives_up_the_oldest() -> None:
    memo: Memo[IntArray] = Memo(2_500)  # three entries
    made: list[str] = []

    def make(texts: list[str]) -> list[IntArray]:
        made.extend(texts)
        return arrays(texts)

    memo.rows(["a", "b", "c"], make)
    memo.rows(["a"], make)
    memo.rows(["d"], make)
    assert made == ["a", "b", "c", "d"]
    assert memo.size <= 2_500
    memo.rows(["a", "c"], make)
    assert made == ["a", "b", "c", "d"]
    memo.rows(["b"], make)
    assert made == ["a", "b", "c", "d", "b"]


def test_a_memo_without_room_gives_what_was_made() -> None:
    memo: Memo[IntArray] = Memo(0)
    assert [int(row[0]) for row in memo.rows(["a", "bcd", "a"], arrays)] == [1, 3, 1]
    assert memo.size == 0


def test_a_memo_serves_several_threads() -> None:
    memo: Memo[IntArray] = Memo(4_000)
    wrong: list[str] = []

    def work(seed: int) -> None:
        for number in range(200):
            texts = ["x" * ((seed * number + part) % 13 + 1) for part in range(4)]
            if [int(row[0]) for row in memo.rows(texts, arrays)] != [len(text) for text in texts]:
                wrong.append(str(texts))

    threads = [Thread(target=work, args=(seed,)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 0 < memo.size <= 4_000


@given(st.lists(st.integers(0, 90), max_size=40), st.integers(1, 500))
def test_batches_hold_every_passage_once_within_the_budget(lengths: list[int], budget: int) -> None:
    made = [batch.tolist() for batch in batches(lengths, budget, 64)]
    assert sorted(place for batch in made for place in batch) == list(range(len(lengths)))
    for batch in made:
        longest = max(lengths[place] for place in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
        assert len(batch) == 1 or len(batch) * WIDTH_STEP <= budget
    assert [lengths[place] for batch in made for place in batch] == sorted(lengths, reverse=True)


def test_without_a_deadline_there_is_one_group() -> None:
    passages = ["word " * 50] * 100
    assert list(groups(passages, 800, never)) == [range(100)]


def test_a_deadline_tells_how_much_is_left_and_other_functions_need_not() -> None:
    assert 0 < remaining(Deadline(10)) <= 10
    assert remaining(never) == remaining(lambda: True) == math.inf


def test_before_a_deadline_groups_begin_small_and_double() -> None:
    passages = ["word " * 80] * 100  # 101 tokens by the estimate
    sizes = [len(group) for group in groups(passages, 1_600, lambda: False)]
    assert sum(sizes) == 100
    assert sizes[:5] == [2, 4, 8, 16, 16]
    assert list(groups(passages, 1_600, lambda: True)) == []
    answers = iter([False, False, True])
    assert list(groups(passages, 1_600, lambda: next(answers))) == [range(2), range(2, 6)]
