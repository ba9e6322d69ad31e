"""What all HDF5 artefacts share: complaints that name the file, and video ids that can be names in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from avfusion.errors import InputError

# What h5py raises at what is damaged, or is something else than is looked for.
DAMAGE = (AttributeError, KeyError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[h5py.File]:
    """Open an HDF5 file of `what` ("features", ...) for reading.

    Raises:
        InputError: there is no such file, or it is no (whole) HDF5 file, or it lacks something that the
            block looked up in it.
    """
    if not Path(path).exists():
        raise InputError(path, "there is no such file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except KeyError as error:
        raise InputError(path, f"is no HDF5 file of {what} ({error.args[0]})") from error
    except DAMAGE as error:
        raise InputError(path, f"cannot be read as HDF5 {what} ({error})") from error


def check_video_id(path: str | Path, video: str) -> str:
    """`video`, if it can name a dataset in an HDF5 file.

    Raises:
        InputError: it is empty or holds a slash, which HDF5 takes for a group of another name.
    """
    if not video or "/" in video or video == ".":
        raise InputError(path, "a video id must not be empty or hold a slash: rename the video", f"'{video}'")
    return video
