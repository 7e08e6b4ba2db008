from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.timing import Spread, Timings, interleave, latencies, percentile


class World:
    """A clock, and work that moves it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []

    def clock(self) -> float:
        return self.now

    def work(self, name: str, seconds: float, slower: float = 0.0) -> Callable[..., None]:
        """Takes ``seconds``, and ``slower`` more for each piece of work done before it."""

        def run(*items: str) -> None:
            self.now += seconds + slower * len(self.done)
            self.done.append(name + "".join(items))

        return run


def test_order_turns_around_and_warm_up_is_not_counted() -> None:
    world = World()
    timings = interleave({"a": world.work("a", 1), "b": world.work("b", 3)}, rounds=4, clock=world.clock)
    assert "".join(world.done) == "ba" + "ab" + "ba" + "ab" + "ba"
    assert timings.seconds == {"a": [1] * 4, "b": [3] * 4}
    assert timings.median("b") == 3
    assert timings.speedup("a", over="b") == Spread(3, 3, 3)
    assert timings.speedup("b", over="a").median == pytest.approx(1 / 3)


def test_steady_drift_cancels_over_two_rounds() -> None:
    world = World()
    calls = {name: world.work(name, 10, slower=1) for name in "ab"}
    timings = interleave(calls, rounds=2, warmups=0, clock=world.clock)
    assert timings.seconds == {"a": [10, 13], "b": [11, 12]}
    assert sum(timings.seconds["a"]) == sum(timings.seconds["b"])


def test_ratio_is_taken_within_a_round() -> None:
    timings = Timings({"ours": [1, 10, 2], "peer": [2, 30, 2]})
    assert timings.speedup("ours", over="peer") == Spread(2, 1, 3)
    assert str(timings.speedup("ours", over="peer")) == "2.00 (1.00 to 3.00)"


def test_rounds_are_needed() -> None:
    with pytest.raises(ValueError, match="rounds=0"):
        interleave({}, rounds=0)


def test_latencies_keep_items_at_their_places() -> None:
    world = World()
    calls = {"a": world.work("a", 1), "b": world.work("b", 2)}
    times = latencies(calls, ["x", "y"], rounds=2, clock=world.clock)
    assert times == {"a": [1] * 4, "b": [2] * 4}
    warm_up, first, second = world.done[:4], world.done[4:8], world.done[8:]
    assert warm_up == second == ["bx", "ax", "ay", "by"]
    assert first == ["ax", "bx", "by", "ay"]


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.25, 1), (0.5, 2), (0.51, 3), (0.95, 4), (1.0, 4)])
def test_percentile(share: float, value: int) -> None:
    assert percentile([3, 1, 4, 2], share) == value
