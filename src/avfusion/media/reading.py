"""All that networks are to see of one video, as one job: what a reading thread or process does.

Imports no torch, so that a process for it starts in a moment.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avfusion.data.features import TimeAxis
from avfusion.errors import MediaError
from avfusion.media.audio import Samples
from avfusion.media.clips import VisualSource, audio_clips, visual_grid, visual_runs
from avfusion.media.log_mel import examples, log_mel
from avfusion.media.probe import VideoInfo, probe
from avfusion.media.snippets import AudioGeometry, Run
from avfusion.media.stopwatch import Stopwatch


@dataclass(frozen=True)
class SoundSource:
    """What a stream of sound hears.

    Attributes:
        geometry: of its snippets.
        run: snippets that are given together.
    """

    geometry: AudioGeometry
    run: int = 16


@dataclass(frozen=True)
class Job:
    """A video to read.

    Attributes:
        path: media file.
        visual: sources of what is seen, by stream.
        sound: sources of what is heard, by stream.
        threads: decoder threads.
    """

    path: Path
    visual: Mapping[str, VisualSource]
    sound: Mapping[str, SoundSource]
    threads: int = 1


@dataclass(frozen=True)
class Piece:
    """Snippets of a stream that were read together: frames (T, H, W, ...), or log-mel (n, N, 96, 64)."""

    stream: str
    run: Run


@dataclass(frozen=True)
class End:
    """The video is read.

    Attributes:
        axes: the time axis of every stream, or why there is none.
        wall: seconds by what was done: "pictures", "flow", "sound", and "handing over" the pieces, which
            includes waiting until they are taken.
        cpu: the same, on a core.
    """

    axes: Mapping[str, TimeAxis | str]
    wall: Mapping[str, float] = field(default_factory=dict)
    cpu: Mapping[str, float] = field(default_factory=dict)


def read_video(job: Job) -> Iterator[Piece | End]:
    """Read one video; a stream that cannot be read has a reason in place of an axis, and stops no other."""
    watch = Stopwatch()
    axes: dict[str, TimeAxis | str] = {}
    info: VideoInfo | str = ""
    try:
        with watch.during("pictures"):
            info = probe(job.path)
            if job.visual:
                for name, run in visual_runs(job.path, info, job.visual, job.threads, watch):
                    with watch.during("handing over"):
                        yield Piece(name, run)
        axes |= {name: visual_grid(info, source.geometry)[0] for name, source in job.visual.items()}
    except MediaError as error:
        info = str(error)
        axes |= dict.fromkeys(job.visual, info)
    for name, source in job.sound.items():
        try:
            with watch.during("sound"):
                axes[name], clips = _sound(job.path, info, source.geometry)
                for run in _grouped(clips, source.run):
                    with watch.during("handing over"):
                        yield Piece(name, run)
        except MediaError as error:
            axes[name] = str(error)
    yield End(axes, watch.wall, watch.cpu)


def _sound(path: Path, info: VideoInfo | str, geometry: AudioGeometry) -> tuple[TimeAxis, Iterator[Samples]]:
    """Axis and snippets of the sound; `info` may be the reason why the pictures cannot be used."""
    if geometry.follow is None:
        return audio_clips(path, geometry)
    if isinstance(info, str):
        raise MediaError(info)
    return audio_clips(path, geometry, visual_grid(info, geometry.follow))


def _grouped(clips: Iterator[Samples], size: int) -> Iterator[Run]:
    group: list[NDArray[np.float32]] = []
    for clip in clips:
        group.append(examples(log_mel(clip)))
        if len(group) == size:
            yield Run(group, size)
            group = []
    if group:
        yield Run(group, len(group))
