"""Progress from inside a task that takes long: steps that a worker announces reach the one who waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from distributed import Client, get_worker

_TOPIC = "synthpipe-progress"


def announce(steps: int) -> None:
    """Tell the client, from inside a task, that `steps` more steps are done."""
    get_worker().log_event(_TOPIC, steps)


@contextmanager
def announced(client: Client, advance: Callable[[int], None]) -> Iterator[None]:
    """Call `advance` with the steps that tasks announce while the block runs."""
    with subscribed(client, _TOPIC, advance):
        yield


@contextmanager
def subscribed(client: Client, topic: str, advance: Callable[[int], None]) -> Iterator[None]:
    """Call `advance` with the numbers that workers log under `topic` while the block runs."""
    client.subscribe_topic(topic, lambda event: advance(event[1]))
    try:
        yield
    finally:
        with suppress(Exception):  # the scheduler may be gone
            client.unsubscribe_topic(topic)
