"""Values of HDF5 datasets as they lie in the file, mapped into memory instead of read.

What is mapped is read when it is looked at, stands in memory once for all processes, and may leave it again
when memory is short. It cannot be written to. A file that is replaced meanwhile, as `atomic_path` does it,
stays mapped as it was; one that is overwritten where it lies does not, and if that shortens it, looking at
values past its end kills the process: `Mapped.whole` tells before.
"""

import mmap
import os
import resource
from pathlib import Path
from weakref import WeakValueDictionary

import h5py
import numpy as np
from numpy.typing import NDArray

# Each mapped file keeps a descriptor, of which a process has so many (-1: any number), often 1024.
_DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
MAX_FILES = _DESCRIPTORS // 4 if _DESCRIPTORS > 0 else 4096
FLOAT32 = np.dtype(np.float32)  # in the byte order of this machine


class Mapped:
    """An HDF5 file in memory, read only.

    Args:
        file: opened for reading.
        content: all of it.
    """

    def __init__(self, file: h5py.File, content: mmap.mmap) -> None:
        self._name = h5py.h5f.get_name(file.id)
        self._content = content

    @property
    def whole(self) -> bool:
        """Whether the file is as long as when it was mapped."""
        return self._content.size() == len(self._content)

    def values(self, dataset: h5py.Dataset) -> NDArray[np.float32] | None:
        """The dataset where it lies; None if it does not lie here as whole float32 rows, which can be used as
        they are: chunked, compressed, of another type or byte order, empty, or behind a link to another file.
        """
        offset = dataset.id.get_offset()  # None unless it lies in one piece
        if offset is None or offset % FLOAT32.itemsize or dataset.dtype != FLOAT32 or not dataset.size:
            return None
        if h5py.h5f.get_name(dataset.id) != self._name or offset + dataset.nbytes > len(self._content):
            return None
        values = np.frombuffer(self._content, FLOAT32, dataset.size, offset)
        return values.reshape(dataset.shape)


# By device and inode, which are nobody else's as long as the file is mapped: until its last array is gone.
_contents: "WeakValueDictionary[tuple[int, int], mmap.mmap]" = WeakValueDictionary()


def map_file(path: Path, file: h5py.File) -> Mapped | None:
    """Map the file that h5py has opened; one mapping serves all that ask for it.

    Args:
        path: where it was opened.
        file: opened for reading.

    Returns:
        None if it cannot be mapped: another file took its place just now, it is not read from a disk, or
        `MAX_FILES` are mapped already.
    """
    if file.driver != "sec2":  # HDF5_DRIVER may have it read into memory, for example
        return None
    opened = os.fstat(file.id.get_vfd_handle())
    key = opened.st_dev, opened.st_ino
    content = _contents.get(key)
    if content is None or content.size() != len(content):
        if len(_contents) >= MAX_FILES:
            return None
        try:
            with path.open("rb") as stream:  # of our own: a copy of h5py's would keep its lock on the file
                found = os.fstat(stream.fileno())
                if (found.st_dev, found.st_ino) != key:
                    return None
                content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError:  # not every file system can
            return None
        _contents[key] = content
    return Mapped(file, content)
