"""From a list of files to the manifest: a video that cannot be used becomes a row with the reason."""

from collections.abc import Sequence
from pathlib import Path

from avfusion.data.manifest import ManifestRow
from avfusion.errors import MediaError
from avfusion.files import sha256
from avfusion.media.listing import ListedVideo
from avfusion.media.probe import probe
from avfusion.progress import track

NO_FILE = "no file"


def inspect_videos(videos: Sequence[ListedVideo]) -> list[ManifestRow]:
    """Manifest rows of the listed videos, in their order. No video makes it fail."""
    return [_inspect(video) for video in track(videos, "opening videos", unit="video")]


def _inspect(video: ListedVideo) -> ManifestRow:
    def left_out(reason: str, digest: str = "") -> ManifestRow:
        return ManifestRow(video.id, video.subset, video.path, sha256=digest, status=reason)

    if not video.path:
        return left_out(video.reason or NO_FILE)
    try:
        digest = sha256(video.path)
    except OSError as error:
        return left_out(f"cannot be read ({error.strerror})")
    try:
        info = probe(Path(video.path))
    except MediaError as error:
        return left_out(str(error), digest)
    return ManifestRow(
        id=video.id,
        subset=video.subset,
        path=video.path,
        duration=info.duration,
        fps=info.fps,
        frames=info.frames,
        has_audio=info.has_audio,
        sample_rate=info.sample_rate,
        sha256=digest,
    )
