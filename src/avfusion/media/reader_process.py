"""Reading videos in processes of their own, where threads of one process would wait for each other.

Python runs one thread at a time, and reading a frame takes it a dozen short calls: from about three videos at
a time on, threads lose more than they gain, and the thread that feeds the network waits with them. A process
reads one video after the other and sends what `read_video` gives through a pipe: a pickled header, and the
bytes of the frames behind it.
"""

import contextlib
import fcntl
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

import avfusion
from avfusion.errors import AvfusionError
from avfusion.media.reading import End, Job, Piece, read_video
from avfusion.media.snippets import Run

PIPE = 2**20  # bytes that wait in a pipe, where the system allows it
logger = logging.getLogger("avfusion")


class _Sent(Run):
    """A run whose bytes come next in a pipe: it can be copied once, before the next item is asked for."""

    def __init__(self, shape: tuple[int, ...], dtype: str, windows: int, pipe: IO[bytes]) -> None:
        super().__init__([], windows)
        self._shape, self._dtype, self._pipe = shape, np.dtype(dtype), pipe
        self.taken = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def dtype(self) -> "np.dtype[Any]":
        return self._dtype

    def copy_to(self, target: NDArray[Any]) -> None:
        view = target.data.cast("B")
        while view:
            count = self._pipe.readinto(view)  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            view = view[count:]
        self.taken = True

    def stacked(self) -> NDArray[Any]:
        result = np.empty(self._shape, self._dtype)
        self.copy_to(result)
        return result


class ReaderProcesses:
    """Processes that read videos, started as they are needed and used again; for several threads.

    Args:
        threads: that libraries in a process may use.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._idle: list[subprocess.Popen[bytes]] = []
        self._busy: set[subprocess.Popen[bytes]] = set()

    def read(self, job: Job) -> Iterator[Piece | End]:
        """What `read_video` gives; the run of a piece must be copied before the next item is asked for.

        Raises:
            AvfusionError: the process died.
            Exception: what `read_video` raised there.
        """
        with self._lock:
            process = self._idle.pop() if self._idle else _start(self._threads)
            self._busy.add(process)
        ended = False
        try:
            for item in _items(process, job):
                ended = isinstance(item, End)
                yield item
        finally:
            with self._lock:
                self._busy.discard(process)
                if ended:
                    self._idle.append(process)
            if not ended:
                _stop(process)

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            processes, self._idle = [*self._idle, *self._busy], []
        for process in processes:
            _stop(process)


def _start(count: int) -> "subprocess.Popen[bytes]":
    package = str(Path(avfusion.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(count))
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **threads, "PYTHONPATH": path},
    )
    assert process.stdout is not None
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE)
    return process


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.kill()  # it has nothing to finish
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):
            pipe.close()


def _items(process: "subprocess.Popen[bytes]", job: Job) -> Iterator[Piece | End]:
    assert process.stdin is not None and process.stdout is not None
    try:
        pickle.dump(job, process.stdin)
        process.stdin.flush()
        while True:
            kind, *content = pickle.load(process.stdout)
            if kind == "piece":
                stream, shape, dtype, windows = content
                run = _Sent(shape, dtype, windows, process.stdout)
                yield Piece(stream, run)
                assert run.taken
            elif kind == "log":
                logger.log(*content)
            elif kind == "error":
                raise content[0]
            else:
                yield content[0]
                return
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
        code = process.wait()
        raise AvfusionError(f"{job.path}: the process that read it ended with status {code}") from error


class _Forward(logging.Handler):
    """Sends what is logged to the parent."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        pickle.dump(("log", record.levelno, "%s", record.getMessage()), self._pipe)


def main() -> None:
    """Read what standard input asks for, until it ends."""
    import cv2

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with os.fdopen(os.dup(1), "wb") as pipe:
        os.dup2(2, 1)  # what a library prints must not get between
        logger.addHandler(_Forward(pipe))
        logger.propagate = False
        while True:
            try:
                job = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            try:
                _answer(job, pipe)
            except BrokenPipeError:  # the parent is gone
                os._exit(1)


def _answer(job: Job, pipe: IO[bytes]) -> None:
    try:
        for item in read_video(job):
            if isinstance(item, Piece):
                form = item.stream, item.run.shape, item.run.dtype.str, item.run.windows
                pickle.dump(("piece", *form), pipe)
                _write(pipe, item.run.parts)
            else:
                pickle.dump(("end", item), pipe)
            pipe.flush()
    except BrokenPipeError:
        raise
    except Exception as error:
        try:
            answer = pickle.dumps(("error", error))
            pickle.loads(answer)
        except Exception:  # an exception that does not survive it
            answer = pickle.dumps(("error", RuntimeError(traceback.format_exc())))
        pipe.write(answer)
        pipe.flush()


def _write(pipe: IO[bytes], parts: Sequence[NDArray[Any]]) -> None:
    for part in parts:
        pipe.write(np.ascontiguousarray(part).data.cast("B"))


if __name__ == "__main__":
    main()
