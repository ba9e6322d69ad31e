"""After a SIGKILL of Snakemake its locks stay behind, and the next run asks for --unlock. Not here.

Every Snakemake process that reads the Snakefile (dry runs too) holds a shared ``flock`` on one file until
it ends; the kernel takes it back however it ends. One that could have the lock for itself is alone: then
whatever lies in ``.snakemake/locks`` belongs to nobody and goes. In any other case the locks stay, and
Snakemake says what it always says.
"""

import fcntl
import os
import socket
from pathlib import Path

_held: list[int] = []  # descriptors, open as long as this process lives; children do not inherit them


def join_the_living(state: Path) -> bool:
    """Count this process among those that use the folder `state` (``.snakemake``).

    Returns:
        Whether locks of dead processes were removed.
    """
    state.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(state / "avfusion.alive", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:  # a folder that one may only read, as for a dry run in somebody else's
        return False
    _held.append(descriptor)
    removed = False
    try:
        if _alone(descriptor):
            locks = list((state / "locks").glob("*.lock"))
            if not locks or _hosts(descriptor) <= {socket.gethostname()}:
                for lock in locks:
                    lock.unlink(missing_ok=True)
                os.ftruncate(descriptor, 0)
                removed = bool(locks)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.write(descriptor, f"{socket.gethostname()}\n".encode())
    except OSError:  # a file system without flock
        return False
    return removed


def _alone(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _hosts(descriptor: int) -> set[str]:
    """Machines whose processes may hold locks: not every shared file system shows them each other's flock."""
    return set(os.pread(descriptor, 1 << 20, 0).decode(errors="replace").split())
