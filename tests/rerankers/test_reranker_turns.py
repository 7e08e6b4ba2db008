"""Turns on a device: one at a time, the most urgent first and until it is done, and none lost by an error."""

import math
import threading
import time
from pathlib import Path

import pytest

from tarragon.rerankers import turns as module
from tarragon.rerankers.cross_encoder import SentenceTransformerReranker
from tarragon.rerankers.turns import Turns, turns_of
from tarragon.reranking import Deadline

PATIENCE = 30.0


def standing(turns: Turns, count: int) -> None:
    """Until so many are in line."""
    end = time.monotonic() + PATIENCE
    while len(turns._line) < count:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_the_most_urgent_goes_first_until_it_is_done() -> None:
    turns, order = Turns(), []
    inside = threading.Lock()

    def take(name: str, remaining: float) -> None:
        with turns.line(remaining) as turn:
            for _ in range(3):
                with turn():
                    assert inside.acquire(blocking=False), "nobody else is in"
                    order.append(name)
                    inside.release()

    threads = []
    with turns.line(-1) as turn, turn():
        for place, (name, remaining) in enumerate([("never", math.inf), ("late", 9.0), ("soon", 1.0), ("later", 9.5)]):
            threads.append(threading.Thread(target=take, args=(name, remaining)))
            threads[-1].start()
            standing(turns, place + 2)
        assert order == []
    for thread in threads:
        thread.join(PATIENCE)
    assert order == [name for name in ("soon", "late", "later", "never") for _ in range(3)]
    assert turns._line == set()


def test_without_deadlines_the_first_that_came_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    turns = Turns()
    with turns.line(math.inf), turns.line(math.inf):
        first, second = sorted(turns._line)
        assert first < second
        now = module.PATIENCE
        with turns.line(1.0):
            assert min(turns._line) == first, "who has waited long enough is not overtaken"


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
def test_an_error_leaves_the_line(error: type[BaseException]) -> None:
    turns = Turns()
    with pytest.raises(error), turns.line(1) as turn, turn():
        raise error
    assert turns._line == set()
    with turns.line(5) as turn, turn():
        pass


def test_a_device_has_one_line() -> None:
    assert turns_of("cpu") is turns_of("cpu")
    assert turns_of("cpu") is not turns_of("cuda:1")


def test_a_question_with_a_deadline_overtakes_one_without(cross_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second question comes while the first is in its first batch, and is scored whole before the first goes on."""
    ours = SentenceTransformerReranker(str(cross_encoder), device="cpu", token_budget=16)
    passages = [f"profile cache index {n}" for n in range(6)]
    alone = ours.score("slow", passages).scores
    order: list[str] = []
    urgent: list[threading.Thread] = []
    scores: dict[str, object] = {}
    run = ours._activated

    def watched(logits: object) -> object:
        order.append(threading.current_thread().name)
        if not urgent:
            urgent.append(threading.Thread(target=ask, name="urgent", args=(Deadline(5),)))
            urgent[0].start()
            standing(turns_of("cpu"), 2)
        return run(logits)  # type: ignore[arg-type]

    def ask(is_over: Deadline | None) -> None:
        settings = {} if is_over is None else {"is_over": is_over}
        scores[threading.current_thread().name] = ours.score("slow", passages, **settings).scores

    monkeypatch.setattr(ours, "_activated", watched)
    patient = threading.Thread(target=ask, name="patient", args=(None,))
    patient.start()
    patient.join(PATIENCE)
    urgent[0].join(PATIENCE)
    batches = order.count("patient")
    assert batches > 2
    assert order == ["patient"] + ["urgent"] * order.count("urgent") + ["patient"] * (batches - 1)
    assert scores == {"patient": pytest.approx(alone), "urgent": pytest.approx(alone)}
