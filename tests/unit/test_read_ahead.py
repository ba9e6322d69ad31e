"""Reading ahead: order, bounds, errors, and threads that end."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from avfusion.media.read_ahead import read_ahead


def source(name: str, count: int, seconds: float = 0.0) -> Callable[[], Iterator[str]]:
    def items() -> Iterator[str]:
        for index in range(count):
            time.sleep(seconds)
            yield f"{name}{index}"

    return items


def test_one_worker_keeps_the_order_of_the_sources() -> None:
    sources = [source("a", 3), source("b", 0), source("c", 2)]
    assert list(read_ahead(sources)) == ["a0", "a1", "a2", "c0", "c1"]


def test_the_order_of_many_workers_does_not_depend_on_their_speed() -> None:
    expected = ["a0", "b0", "a1", "b1", "b2", "c0", "c1"]
    for times in ((0, 0, 0), (0, 0.01, 0), (0.01, 0, 0.02)):
        sources = [source(n, k, t) for n, k, t in zip("abc", (2, 3, 2), times, strict=True)]
        assert list(read_ahead(sources, workers=2)) == expected


def test_out_of_turn_a_slow_source_holds_up_none() -> None:
    sources = [source("a", 2, 0.2), source("b", 5), source("c", 1)]
    found = list(read_ahead(sources, workers=2, in_turn=False))
    assert sorted(found) == ["a0", "a1", "b0", "b1", "b2", "b3", "b4", "c0"]
    assert [item for item in found if item[0] == "b"] == ["b0", "b1", "b2", "b3", "b4"]
    assert found.index("c0") < found.index("a1")
    assert not _readers()


def test_an_error_out_of_turn() -> None:
    def broken() -> Iterator[str]:
        yield "x0"
        raise ValueError("broken")

    stream = read_ahead([broken, source("b", 200, 0.01)], workers=2, in_turn=False)
    with pytest.raises(ValueError, match="broken"):
        list(stream)
    assert not _readers()


def test_no_more_is_read_than_may_wait() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for index in range(100):
            read.append(index)
            yield index

    stream = read_ahead([items], ahead=2)
    assert next(stream) == 0
    time.sleep(0.3)
    assert len(read) <= 4  # one taken, two that wait, one in the reader's hand
    stream.close()
    assert not _readers()


def test_sources_are_read_while_items_are_used() -> None:
    started = time.perf_counter()
    for _ in read_ahead([source("a", 10, 0.03)], ahead=2):
        time.sleep(0.03)
    assert time.perf_counter() - started < 0.55  # 0.6 one after the other


def test_an_error_comes_at_its_place() -> None:
    def broken() -> Iterator[str]:
        yield "x0"
        raise ValueError("broken")

    stream = read_ahead([broken, source("b", 2)])
    assert next(stream) == "x0"
    with pytest.raises(ValueError, match="broken"):
        next(stream)
    assert not _readers()


def test_leaving_early_closes_the_sources() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.append(threading.current_thread())

    stream = read_ahead([items, items], workers=2)
    next(stream)
    stream.close()
    assert len(closed) == 2
    assert threading.main_thread() not in closed
    assert not _readers()


def _readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "_read" in thread.name]
