"""Where the time of a reading thread or process goes."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by what a thread is doing; what it does inside something else counts once, for the inner.

    For the thread that uses it only.

    Attributes:
        wall: seconds of the clock.
        cpu: seconds of the thread on a core; the difference was spent waiting.
    """

    def __init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self._doing: str | None = None
        self._since = (time.perf_counter(), time.thread_time())

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Count the block as `what`."""
        outer = self._switch(what)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, what: str | None) -> str | None:
        before, (wall, cpu) = self._doing, self._since
        self._since = (time.perf_counter(), time.thread_time())
        if before is not None:
            self.wall[before] += self._since[0] - wall
            self.cpu[before] += self._since[1] - cpu
        self._doing = what
        return before
