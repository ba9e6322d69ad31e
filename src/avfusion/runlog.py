"""What every job of a workflow does around its work: a log file, one-line errors, an end with its parent."""

import logging
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avfusion.errors import AvfusionError

PARENT = "AVFUSION_PARENT"  # environment variable: id of the process without which a job has no purpose
logger = logging.getLogger("avfusion")


@contextmanager
def job(log: str | Path, threads: int | None = None) -> Iterator[None]:
    """Run the block as a job that writes what it has to say to the file `log`.

    Messages of the package (progress among them) and warnings go to the file, with the time. An
    `AvfusionError` becomes one line there and one on standard error, and the process exits with 1; any other
    exception leaves its traceback in the file too and goes on. If the process named in the environment
    variable AVFUSION_PARENT ends, this one ends with it: the file it was writing never takes its name.

    Args:
        log: text file, replaced.
        threads: threads that torch and OpenCV may use. It does not follow the number of free cores, so
            that sums have one order and one result. None: the job uses neither.
    """
    _end_with_parent()
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    loggers = (logger, logging.getLogger("py.warnings"))
    level, started = logger.level, time.monotonic()
    for each in loggers:
        each.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        if threads is not None:
            _limit_threads(threads)
        yield
        logger.info("done in %.1f s", time.monotonic() - started)
    except AvfusionError as error:
        logger.error("%s", error)
        print(f"avfusion: error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    except Exception:
        logger.exception("this should not happen; please report it with these lines")
        raise
    finally:
        logging.captureWarnings(False)
        logger.setLevel(level)
        for each in loggers:
            each.removeHandler(handler)
        handler.close()


def _limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    os.environ["OPENCV_FOR_THREADS_NUM"] = str(threads)  # read when cv2 is imported
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(threads)


def _end_with_parent() -> None:
    parent = os.environ.get(PARENT, "")
    if not (parent.isdigit() and hasattr(os, "pidfd_open")):
        return
    try:
        descriptor = os.pidfd_open(int(parent))
    except ProcessLookupError:
        os._exit(1)
    except OSError:  # an old kernel: the job then runs to its end, which costs time but spoils nothing
        return
    threading.Thread(target=_exit_when_ready, args=(descriptor,), daemon=True).start()


def _exit_when_ready(descriptor: int) -> None:
    select.select([descriptor], [], [])  # readable when the process has ended
    os._exit(1)
