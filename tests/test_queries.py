"""Query vectors: each text is embedded once, whoever asks and however many ask at once."""

from __future__ import annotations

import ctypes
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tarragon.errors import EncodingFailed, InvalidInput
from tarragon.queries import Encoded, QueryVectors, SpaceKey
from tarragon.testing import WordEncoder
from tarragon.types import FloatArray, SparseVector

KEY = SpaceKey("words")
PATIENCE = 10.0


class Model:
    """`WordEncoder` for queries; notes the texts of each run, and can be held and broken."""

    def __init__(self, *, max_tokens: int = 256, is_held: bool = False) -> None:
        self.encoder = WordEncoder(max_tokens=max_tokens)
        self.runs: list[list[str]] = []
        self.may_run = threading.Event()
        self.is_running = threading.Event()
        self.fails: Callable[[Sequence[str]], BaseException | None] = lambda texts: None
        if not is_held:
            self.may_run.set()

    def __call__(self, texts: Sequence[str]) -> Encoded[FloatArray]:
        self.runs.append(list(texts))
        self.is_running.set()
        assert self.may_run.wait(PATIENCE)
        if error := self.fails(texts):
            raise error
        embeddings = self.encoder.encode_queries(texts)
        return Encoded(list(embeddings.vectors), embeddings.truncated)

    def row(self, text: str) -> FloatArray:
        row: FloatArray = self.encoder.encode_queries([text]).vectors[0]
        return row


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def ask_at_once(
    pool: ThreadPoolExecutor, queries: QueryVectors, model: Model, asked: Iterable[Sequence[str]]
) -> list[Future[Any]]:
    """One caller after another, each of them waiting before the next one comes; the model is held."""

    def ask(texts: Sequence[str]) -> Future[Any]:
        expected = queries.counts().misses + len(texts)
        future = pool.submit(queries.vectors, KEY, texts, model)
        until(lambda: queries.counts().misses == expected)
        return future

    return [ask(texts) for texts in asked]


def test_vectors_come_in_the_order_of_the_texts_and_a_repeated_text_is_embedded_once() -> None:
    queries, model = QueryVectors(), Model()
    texts = ["sign a key", "restore", "sign a key", ""]
    found = queries.vectors(KEY, texts, model)
    for text, one in zip(texts, found, strict=True):
        np.testing.assert_array_equal(one.vector, model.row(text))
        assert (one.truncated, one.cached) == (0, False)
    assert model.runs == [["sign a key", "restore", ""]]
    again = queries.vectors(KEY, ["restore", "new"], model)
    assert [one.cached for one in again] == [True, False]
    np.testing.assert_array_equal(again[0].vector, model.row("restore"))
    assert model.runs[1:] == [["new"]]
    counts = queries.counts()
    assert (counts.hits, counts.misses, counts.embedded, counts.batches, counts.entries) == (1, 5, 4, 2, 4)
    assert queries.vectors(KEY, [], model) == []
    assert len(model.runs) == 2


@pytest.mark.parametrize("other", [SpaceKey("other"), SpaceKey("words", "late"), SpaceKey("words", prompt="q: ")])
def test_each_part_of_the_key_is_a_space_of_its_own(other: SpaceKey) -> None:
    queries, model = QueryVectors(), Model()
    queries.vectors(KEY, ["text"], model)
    queries.vectors(other, ["text"], model)
    assert model.runs == [["text"], ["text"]]


def test_callers_that_come_while_the_model_is_busy_share_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tarragon.queries._PATIENCE", 100 * PATIENCE)  # they are told, and do not look for themselves
    queries, model = QueryVectors(), Model(is_held=True)
    with ThreadPoolExecutor(17) as pool:
        futures = ask_at_once(pool, queries, model, [[f"question {n}"] for n in range(17)])
        model.may_run.set()
        for n, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(PATIENCE)[0].vector, model.row(f"question {n}"))
    assert model.runs == [["question 0"], [f"question {n}" for n in range(1, 17)]]
    assert (queries.counts().batches, queries.counts().embedded) == (2, 17)


def test_the_same_text_asked_for_at_once_is_embedded_once() -> None:
    queries, model = QueryVectors(), Model(is_held=True)
    with ThreadPoolExecutor(8) as pool:
        futures = ask_at_once(pool, queries, model, [["a"], ["a"], ["b", "a"], ["b"], ["a", "b"]])
        model.may_run.set()
        answers = [future.result(PATIENCE) for future in futures]
    assert model.runs == [["a"], ["b"]]
    np.testing.assert_array_equal(answers[4][1].vector, model.row("b"))


def test_nothing_waits_for_another_key() -> None:
    queries, held, free = QueryVectors(), Model(is_held=True), Model()
    with ThreadPoolExecutor(1) as pool:
        dense = pool.submit(queries.vectors, KEY, ["text"], held)
        assert held.is_running.wait(PATIENCE)
        assert len(queries.vectors(SpaceKey("words", "sparse"), ["text"], free)) == 1
        assert not dense.done()
        held.may_run.set()
        dense.result(PATIENCE)


def test_a_caller_with_one_text_does_not_wait_for_all_of_one_with_many() -> None:
    queries, model = QueryVectors(most_texts=4), Model(is_held=True)
    many = [f"m{n}" for n in range(12)]
    with ThreadPoolExecutor(2) as pool:
        futures = ask_at_once(pool, queries, model, [many, ["one"]])
        model.may_run.set()
        assert len(futures[0].result(PATIENCE)) == 12
        futures[1].result(PATIENCE)
    assert model.runs == [many[:4], ["m4", "one", "m5", "m6"], ["m7", "m8", "m9", "m10"], ["m11"]]


def test_a_text_that_two_wait_for_has_the_earlier_turn() -> None:
    queries, model = QueryVectors(most_texts=4), Model(is_held=True)
    many = [f"m{n}" for n in range(12)]
    with ThreadPoolExecutor(2) as pool:
        futures = ask_at_once(pool, queries, model, [many, ["m11"]])
        model.may_run.set()
        for future in futures:
            future.result(PATIENCE)
    assert model.runs[1] == ["m4", "m11", "m5", "m6"]
    assert sum(map(len, model.runs)) == 12


def test_a_text_that_the_model_cannot_take_fails_only_who_asked_for_it() -> None:
    queries, model = QueryVectors(), Model(is_held=True)
    model.fails = lambda texts: ValueError("poison") if "poison" in texts else None
    with ThreadPoolExecutor(4) as pool:
        futures = ask_at_once(pool, queries, model, [["first"], ["good"], ["good", "poison"], ["fine"]])
        model.may_run.set()
        np.testing.assert_array_equal(futures[1].result(PATIENCE)[0].vector, model.row("good"))
        np.testing.assert_array_equal(futures[3].result(PATIENCE)[0].vector, model.row("fine"))
        with pytest.raises(ValueError, match="poison"):
            futures[2].result(PATIENCE)
    assert sorted(model.runs[1]) == ["fine", "good", "poison"]
    assert sorted(model.runs[2:]) == [["fine"], ["good"], ["good", "poison"]]
    assert len(queries.vectors(KEY, ["good", "fine"], model)) == 2
    assert len(model.runs) == 5


def test_a_model_that_is_down_fails_every_caller_and_works_again_afterwards() -> None:
    queries, model = QueryVectors(), Model(is_held=True)
    model.fails = lambda texts: ConnectionError("down")
    with ThreadPoolExecutor(4) as pool:
        futures = ask_at_once(pool, queries, model, [["a"], ["b"], ["c"], ["c"]])
        model.may_run.set()
        for future in futures:
            with pytest.raises(ConnectionError, match="down"):
                future.result(PATIENCE)
    model.fails = lambda texts: None
    assert not queries.vectors(KEY, ["a"], model)[0].cached
    assert not queries._lanes


def test_a_caller_alone_gets_its_error_at_once() -> None:
    queries, model = QueryVectors(), Model()
    model.fails = lambda texts: ValueError("no")
    with pytest.raises(ValueError, match="no"):
        queries.vectors(KEY, ["a", "b"], model)
    assert len(model.runs) == 1


def test_who_leads_and_is_interrupted_leaves_its_place_to_the_others() -> None:
    queries, model = QueryVectors(), Model(is_held=True)
    model.fails = lambda texts: KeyboardInterrupt() if texts == ["first"] else None
    with ThreadPoolExecutor(3) as pool:
        futures = ask_at_once(pool, queries, model, [["first"], ["second"], ["first", "third"]])
        model.may_run.set()
        with pytest.raises(KeyboardInterrupt):
            futures[0].result(PATIENCE)
        assert len(futures[1].result(PATIENCE)) == 1
        np.testing.assert_array_equal(futures[2].result(PATIENCE)[0].vector, model.row("first"))
    assert [sorted(run) for run in model.runs] == [["first"], ["first", "second", "third"]]
    assert not queries._lanes


class Interrupted(BaseException):
    """Thrown into threads, as Ctrl-C is into the main one."""


def test_interrupts_at_any_point_keep_nobody_waiting() -> None:
    """Exceptions are thrown into some callers at random; all others get all their vectors."""
    queries, model, over = QueryVectors(entries=0, most_texts=3), Model(), threading.Event()
    counted = [0] * 6

    def ask(number: int) -> None:
        source = random.Random(number)
        while not over.is_set():
            texts = [f"text {source.randrange(8)}" for _ in range(3)]
            try:
                found = queries.vectors(KEY, texts, model)
                assert [one.vector.shape for one in found] == [(64,)] * 3
                counted[number] += 1
            except Interrupted:
                if number >= 2:
                    raise

    def victim(number: int) -> None:
        while not over.is_set():
            try:
                ask(number)
            except Interrupted:
                continue

    pairs = [(victim if number < 2 else ask, number) for number in range(6)]
    threads = [threading.Thread(target=work, args=(number,), daemon=True) for work, number in pairs]
    for thread in threads:
        thread.start()
    source = random.Random(0)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        time.sleep(source.random() / 500)
        ident = ctypes.c_ulong(threads[source.randrange(2)].ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(Interrupted))
    counts_then = list(counted)
    until(lambda: all(now > then for now, then in zip(counted[2:], counts_then[2:], strict=True)))
    over.set()
    for thread in threads[2:]:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_arrays_cannot_be_spoilt_and_do_not_keep_the_batch_alive() -> None:
    queries, model = QueryVectors(), Model()
    row = queries.vectors(KEY, ["a", "b"], model)[0].vector
    with pytest.raises(ValueError, match="read-only"):
        row[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        row.flags.writeable = True
    assert row.base is not None
    assert row.base.shape == row.shape


def test_sparse_vectors_and_late_matrices_are_kept_too() -> None:
    queries = QueryVectors()
    sparse = SparseVector(np.array([3, 7], np.int32), np.array([0.5, 2.0], np.float32))
    late = np.arange(6, dtype=np.float32).reshape(3, 2)
    for _ in range(2):
        found = queries.vectors(SpaceKey("s", "sparse"), ["a"], lambda texts: Encoded([sparse]))[0].vector
        np.testing.assert_array_equal(found.indices, [3, 7])
        np.testing.assert_array_equal(found.values, np.array([0.5, 2.0], np.float32))
        assert not found.indices.flags.writeable
        assert not found.values.flags.writeable
        matrix = queries.vectors(SpaceKey("l", "late"), ["a"], lambda texts: Encoded([late]))[0].vector
        np.testing.assert_array_equal(matrix, late)
        assert not matrix.flags.writeable
    sparse.values[0] = 9  # the model's own arrays stay its own
    assert queries.counts().batches == 2


@pytest.mark.parametrize("shape", [(1, 64), (3, 64)])
def test_another_number_of_vectors_than_texts_is_refused(shape: tuple[int, int]) -> None:
    rows = np.ones(shape, np.float32)
    with pytest.raises(EncodingFailed, match=f"{shape[0]} vectors for 2 queries"):
        QueryVectors().vectors(KEY, ["a", "b"], lambda texts: Encoded(list(rows)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_vector_is_not_kept(bad: float) -> None:
    queries, model = QueryVectors(), Model()
    with pytest.raises(EncodingFailed, match="query 'a'"):
        queries.vectors(KEY, ["a"], lambda texts: Encoded([np.full(64, bad, np.float32)]))
    weights = SparseVector(np.array([1], np.int32), np.array([bad], np.float32))
    with pytest.raises(EncodingFailed, match="query 'a'"):
        queries.vectors(SpaceKey("s", "sparse"), ["a"], lambda texts: Encoded([weights]))
    assert not queries.vectors(KEY, ["a"], model)[0].cached


def test_truncated_tokens_are_those_of_each_text_and_are_kept_with_it() -> None:
    queries, model = QueryVectors(), Model(max_tokens=4)
    texts = [" ".join(["word"] * n) + f" {n}" for n in range(10)]
    expected = [max(0, n + 1 - 4) for n in range(10)]
    for cached in (False, True):
        found = queries.vectors(KEY, texts, model)
        assert [one.truncated for one in found] == expected
        assert all(one.cached is cached for one in found)
    np.testing.assert_array_equal(found[9].vector, model.row(texts[9]))


def test_one_truncated_text_of_64_is_found_in_six_runs_more() -> None:
    queries, model = QueryVectors(), Model(max_tokens=4)
    texts = [f"text {n}" for n in range(63)] + ["one two three four five six"]
    assert [one.truncated for one in queries.vectors(KEY, texts, model)] == [0] * 63 + [2]
    assert len(model.runs) == 7


def test_vectors_grow_old() -> None:
    now = [100.0]
    queries, model = QueryVectors(ttl=60, clock=lambda: now[0]), Model()
    queries.vectors(KEY, ["a"], model)
    now[0] = 159.9
    assert queries.vectors(KEY, ["a"], model)[0].cached
    now[0] = 160.0
    assert not queries.vectors(KEY, ["a"], model)[0].cached  # counted from when it was made, not used
    assert queries.vectors(KEY, ["a"], model)[0].cached
    forever = QueryVectors(ttl=None, clock=lambda: now[0])
    forever.vectors(KEY, ["a"], model)
    now[0] = 1e12
    assert forever.vectors(KEY, ["a"], model)[0].cached


def test_the_least_recently_used_goes_first() -> None:
    queries, model = QueryVectors(entries=2), Model()
    for text in ("a", "b", "a", "c"):
        queries.vectors(KEY, [text], model)
    assert [queries.vectors(KEY, [text], model)[0].cached for text in ("a", "c", "b")] == [True, True, False]
    assert queries.counts().entries == 2
    three = queries.vectors(KEY, ["x", "y", "z"], model)
    np.testing.assert_array_equal(three[0].vector, model.row("x"))


def test_without_a_cache_callers_still_share_runs() -> None:
    queries, model = QueryVectors(entries=0), Model(is_held=True)
    with ThreadPoolExecutor(3) as pool:
        futures = ask_at_once(pool, queries, model, [["a"], ["b"], ["b"]])
        model.may_run.set()
        for future in futures:
            future.result(PATIENCE)
    assert model.runs == [["a"], ["b"]]
    assert not queries.vectors(KEY, ["a"], model)[0].cached


def test_clear_also_drops_what_is_being_made() -> None:
    queries, model, free = QueryVectors(), Model(is_held=True), Model()
    queries.vectors(KEY, ["kept"], free)
    with ThreadPoolExecutor(1) as pool:
        before = pool.submit(queries.vectors, KEY, ["a"], model)
        assert model.is_running.wait(PATIENCE)
        queries.clear()
        assert not queries.vectors(KEY, ["a"], free)[0].cached  # made after, not waited for
        model.may_run.set()
        assert len(before.result(PATIENCE)) == 1
    assert not queries.vectors(KEY, ["kept"], free)[0].cached
    assert free.runs == [["kept"], ["a"], ["kept"]]


def test_many_threads_get_the_right_vectors() -> None:
    queries, model = QueryVectors(entries=5, most_texts=4), Model()
    rows = {text: model.row(text) for text in (f"text {n}" for n in range(12))}

    def ask(number: int) -> None:
        source = random.Random(number)
        for _ in range(30):
            texts = source.choices(list(rows), k=source.randrange(1, 7))
            for text, one in zip(texts, queries.vectors(KEY, texts, model), strict=True):
                np.testing.assert_array_equal(one.vector, rows[text])

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(ask, range(12)))
    counts = queries.counts()
    assert counts.embedded == sum(map(len, model.runs))
    assert counts.batches == len(model.runs)
    assert max(map(len, model.runs)) <= 4
    assert not queries._lanes


@pytest.mark.parametrize(
    "settings", [{"entries": -1}, {"ttl": 0.0}, {"ttl": -1.0}, {"ttl": float("nan")}, {"most_texts": 0}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(InvalidInput, match=f"{name}={value}"):
        QueryVectors(**settings)
