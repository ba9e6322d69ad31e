"""The annotated videos of a dataset, out of the archives that its organisers publish."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from avfusion.data import web
from avfusion.data.archives import Archive, extract, open_archive
from avfusion.data.terms import demand_acceptance
from avfusion.errors import InputError
from avfusion.options import require
from avfusion.progress import track

NOT_IN_ARCHIVES = "in none of the archives"


@dataclass(frozen=True)
class ArchiveOptions:
    """Archives and how to get at them (``media: {source: archives}``).

    Attributes:
        archives: addresses or paths of ZIP archives.
        password: of encrypted archives; who has registered knows it.
        terms: address of the terms of use; empty if there are none.
        accept_terms: whether they have been read and accepted.
        retries: failures in a row, with nothing received, that are forgiven.
        timeout: seconds without a sign of the server that count as a failure.
    """

    archives: tuple[str, ...]
    password: str | None = None
    terms: str = ""
    accept_terms: bool = False
    retries: int = web.RETRIES
    timeout: float = web.TIMEOUT

    def __post_init__(self) -> None:
        require(bool(self.archives), "archives", "must name at least one archive")


def fetch_from_archives(
    videos: Sequence[str], options: ArchiveOptions, folder: str | Path, config: str = "media"
) -> tuple[dict[str, Path], dict[str, str]]:
    """Extract videos to ``folder/ID.SUFFIX``. What is there already stays.

    Args:
        videos: ids; a member is of a video if its name without folder and suffix is the id.
        config: file that the options come from, for messages.

    Returns:
        File by video id, and the reason by id of those that no archive holds.

    Raises:
        InputError: the terms are not accepted, an archive cannot be read, or the password is wrong.
    """
    demand_acceptance(options.terms, options.accept_terms, config)
    archives = [open_archive(place, options.retries, options.timeout) for place in options.archives]
    place_of = _places(archives, videos)
    files = {}
    for video, archive in track(place_of.items(), "extracting videos", unit="video"):
        suffix = PurePosixPath(archive.members[video].filename).suffix
        files[video] = extract(archive, video, Path(folder) / f"{video}{suffix}", options.password)
    return files, {video: NOT_IN_ARCHIVES for video in videos if video not in files}


def _places(archives: Sequence[Archive], videos: Sequence[str]) -> Mapping[str, Archive]:
    found: dict[str, Archive] = {}
    for archive in archives:
        for video in videos:
            if video in archive.members:
                if video in found:
                    problem = f"is in {found[video].source.name} as well"
                    raise InputError(archive.source.name, problem, video)
                found[video] = archive
    return {video: found[video] for video in videos if video in found}
