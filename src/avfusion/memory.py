"""What the C library does with memory that is freed."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
ALWAYS_ALLOWED = 2**25  # bytes of a block to keep; larger ones glibc refuses to keep before version 2.35
EVERYTHING = 2**31 - 1  # bytes; malloc's options are ints


def keep_freed_memory(most: int = EVERYTHING, block: int = 2**27) -> None:
    """Have glibc keep freed memory at hand, for all of this process and until its end.

    By itself it asks the system for large blocks, page by page, and gives them back, for every layer of a
    network and every gradient: up to a third of the time on a CPU. What is kept does not always fit the next
    block, so that a process becomes larger, training by a tenth or two. Other C libraries are left as they
    are.

    Args:
        most: bytes that may lie unused at the end of the heap.
        block: bytes; larger blocks are given back at once. By itself glibc raises this size as blocks are
            freed. Where sizes vary for long, what threads leave in each other's heaps adds up to several
            times what is in use: choose it small there.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    if not mallopt(M_MMAP_THRESHOLD, block):
        mallopt(M_MMAP_THRESHOLD, min(block, ALWAYS_ALLOWED))
    mallopt(M_TRIM_THRESHOLD, most)
