"""What is in a ZIP archive, unless it is made to do harm."""

import stat
import zipfile
from pathlib import Path, PurePosixPath

from avfusion.errors import InputError


def members(archive: zipfile.ZipFile, place: str | Path) -> list[zipfile.ZipInfo]:
    """Files in an archive, without folders and what macOS adds.

    Raises:
        InputError: a member is a link, or would be written outside of the folder that it is unpacked to.
    """
    for info in archive.infolist():
        path = PurePosixPath(info.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in info.filename.split("/")[0]:
            raise InputError(
                place, "leads out of the archive's folder: do not trust this archive", info.filename
            )
        if stat.S_ISLNK(info.external_attr >> 16):
            raise InputError(place, "is a symbolic link: do not trust this archive", info.filename)
    return [
        info for info in archive.infolist() if not info.is_dir() and not info.filename.startswith("__MACOSX/")
    ]
