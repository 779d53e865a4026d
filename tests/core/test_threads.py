"""Work in threads comes back in order, and what waits for it, or for who takes it, is little."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from synthpipe.core.threads import in_threads


def test_results_are_in_order_and_few_wait() -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    for done, result in enumerate(in_threads(lambda number: number**2, numbers(), 4)):
        assert result == done**2
        assert len(taken) - done <= 12


def test_a_slow_one_holds_nobody_up_and_what_fails_ends_all() -> None:
    begun, released, waited_for = [], threading.Event(), []

    def work(number: int) -> int:
        begun.append(number)
        if number == 0:
            waited_for.append(released.wait(10))
        if number == 5:
            released.set()
        if number == 20:
            raise ValueError("20 is broken")
        return number

    with pytest.raises(ValueError, match="20 is broken"):
        list(in_threads(work, range(1000), 2))
    assert waited_for == [True] and max(begun) < 40
