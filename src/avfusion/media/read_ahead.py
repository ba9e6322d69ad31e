"""Reading ahead in threads: what is decoded next waits, in bounded number, while the network is busy."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
_POLL = 0.1  # seconds after which a thread that waits looks whether it is still wanted


class _End:
    """What a source puts last: that it is through, or why it broke."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class _Reader(Generic[Item]):
    """One source in a thread of its own."""

    def __init__(
        self, source: Callable[[], Iterator[Item]], ahead: int, ready: "queue.SimpleQueue[_Reader[Item]]"
    ) -> None:
        self._queue: queue.Queue[Item | _End] = queue.Queue(ahead)
        self._ready = ready
        self._unwanted = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(source,), daemon=True)
        self._thread.start()

    def take(self) -> Item | _End:
        return self._queue.get()

    def close(self) -> None:
        self._unwanted.set()
        self._thread.join()

    def _read(self, source: Callable[[], Iterator[Item]]) -> None:
        end = _End()
        try:
            items = source()
            for item in items:
                if not self._put(item):
                    getattr(items, "close", bool)()  # so that files are closed by the thread that opened them
                    return
        except BaseException as error:  # raised again where the items are used
            end = _End(error)
        self._put(end)

    def _put(self, item: Item | _End) -> bool:
        while not self._unwanted.is_set():
            try:
                self._queue.put(item, timeout=_POLL)
            except queue.Full:
                continue
            self._ready.put(self)
            return True
        return False


def read_ahead(
    sources: Iterable[Callable[[], Iterator[Item]]], workers: int = 1, ahead: int = 2, in_turn: bool = True
) -> Generator[Item, None, None]:
    """Items of all sources, each source read by a thread that is up to `ahead` items ahead.

    With one worker the sources come one after the other. With more, as many are read at a time.

    Args:
        sources: functions that open an iterator; called in the thread.
        workers: sources read at a time.
        ahead: items of a source that may wait.
        in_turn: items of the sources that are read come in turn: the order depends on the sources alone,
            never on which thread was quicker, but a slow source holds up the others. Otherwise they come as
            they are read, those of each source in their order.

    Raises:
        BaseException: what a source raised, at its place among the items.
    """
    coming, active = iter(sources), deque[_Reader[Item]]()
    ready: queue.SimpleQueue[_Reader[Item]] = queue.SimpleQueue()
    try:
        while True:
            while len(active) < workers and (source := next(coming, None)) is not None:
                active.append(_Reader(source, ahead, ready))
            if not active:
                return
            reader = active[0] if in_turn else ready.get()
            item = reader.take()
            if not isinstance(item, _End):
                active.rotate(-1)
                yield item
                continue
            active.remove(reader)
            reader.close()
            if item.error is not None:
                raise item.error
    finally:
        for reader in active:
            reader.close()
