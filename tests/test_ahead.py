"""An iteration that is a step ahead: order, bounds, errors, and an end when nobody wants more."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tarragon.ahead import ahead


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_the_items_come_in_order_from_another_thread() -> None:
    makers = set()

    def items() -> Iterator[int]:
        for number in range(200):
            makers.add(threading.current_thread().name)
            yield number

    assert list(ahead(items(), "reading")) == list(range(200))
    assert makers == {"reading"}
    assert "reading" not in threads()
    assert list(ahead([], "reading")) == []


def test_the_next_item_is_made_while_one_is_consumed_and_no_more_than_that() -> None:
    made = threading.Semaphore(0)
    numbers = []

    def items() -> Iterator[int]:
        for number in range(50):
            numbers.append(number)
            made.release()
            yield number

    with closing(ahead(items(), "reading")) as ready:
        for consumed, number in enumerate(ready):
            assert number == consumed
            if consumed < 48:
                assert made.acquire(timeout=10), "the next one is made though nobody has asked for it"
            assert len(numbers) <= consumed + 3, "this one, one that waits, and one that is being made"


def test_an_error_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise LookupError("nothing more")

    got = []
    with pytest.raises(LookupError, match="nothing more"):
        for number in ahead(items(), "reading"):
            got.append(number)
    assert got == [1, 2]
    assert "reading" not in threads()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whoever_stops_early_leaves_no_thread_behind(error: type[BaseException]) -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(1_000_000):
            made.append(number)
            yield number

    with pytest.raises(error), closing(ahead(items(), "reading")) as ready:
        for number in ready:
            if number == 3:
                raise error
    assert "reading" not in threads()
    assert len(made) <= 7
