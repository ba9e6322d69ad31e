"""Progress that a person can follow: a bar on a terminal, plain lines in a log."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
LOG_EVERY_SECONDS = 10.0
logger = logging.getLogger("avfusion")


def track(items: Iterable[Item], what: str, total: int | None = None, unit: str = "it") -> Iterator[Item]:
    """Iterate over `items`, showing how far it is and how long it will still take.

    On a terminal this is one bar that disappears when done. Wherever the ``avfusion`` logger writes (a
    rule's log file, or standard error when that is no terminal) a plain line appears every ten seconds.

    Args:
        what: what is being done, for a reader who sees nothing else ("extracting rgb").
        total: number of items, if `items` has no length.
        unit: singular name of an item.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    started = last = time.monotonic()
    done = 0
    bar = tqdm(items, desc=what, total=total, unit=unit, leave=False, disable=not sys.stderr.isatty())
    for done, item in enumerate(bar, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_EVERY_SECONDS:
            last = now
            logger.info("%s", _line(what, done, total, unit, now - started))
    if last != started:
        logger.info("%s: %d %s in %.0f s", what, done, unit, time.monotonic() - started)


def _line(what: str, done: int, total: int | None, unit: str, elapsed: float) -> str:
    if not total:
        return f"{what}: {done} {unit} in {elapsed:.0f} s"
    remaining = elapsed * max(total - done, 0) / done
    return f"{what}: {done}/{total} {unit} ({100 * done / total:.0f}%), about {remaining:.0f} s left"
