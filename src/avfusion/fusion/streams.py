"""The features that an experiment sees: one stream, or several joined by an encoding fusion.

Visual streams (rgb, flow) are put side by side whatever the fusion is: they count as one picture. The fusion
joins the sound, or one sound after the other, to it.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from avfusion.data.features import FeatureStore, VideoFeatures
from avfusion.data.streams import is_sound
from avfusion.errors import InputError
from avfusion.fusion.encoding import EQUAL_COUNTS, fuse

MissingAudio = Literal["drop", "zeros", "mask"]
logger = logging.getLogger("avfusion")


@dataclass(frozen=True, eq=False)
class StreamFeatures(Mapping[str, VideoFeatures]):
    """Joined features by video, and what became of the videos that lack a stream.

    Attributes:
        found: features of every video that has them.
        absent: of every other video, the stream that it lacks and why.
        silent: videos without sound of their own, to which zeros were given.
    """

    found: Mapping[str, VideoFeatures]
    absent: Mapping[str, str]
    silent: Sequence[str]

    def __getitem__(self, video: str) -> VideoFeatures:
        return self.found[video]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


def load_streams(
    paths: Mapping[str, Sequence[str | Path]],
    videos: Iterable[str],
    fusion: str | None,
    missing_audio: MissingAudio = "drop",
) -> StreamFeatures:
    """Read the features of `videos` and join their streams.

    Args:
        paths: files of every stream, in the order in which streams are joined, picture before sound.
        videos: ids; those that lack a stream are left out, with a line in the log.
        fusion: name of the encoding fusion (`avfusion.fusion.encoding`) that joins the sound; None with a
            single stream, or with pictures only.
        missing_audio: what happens to a video that lacks only its sound: "drop" leaves it out as well,
            "zeros" takes features of zeros. "mask" does so too, and gives the sound of every video one more
            channel, 1 where there is sound and 0 where there is none, so that the detector can tell.

    Raises:
        InputError: no video is left; streams of a video that cannot be joined; sound, but no fusion.
    """
    stores = {stream: FeatureStore(files, stream) for stream, files in paths.items()}
    if fusion is None and len(stores) > 1 and any(map(is_sound, stores)):
        raise InputError("fusion", f"the streams {' and '.join(stores)} need one, such as concat or aligned")
    found: dict[str, VideoFeatures] = {}
    absent: dict[str, str] = {}
    silent: list[str] = []
    for video in videos:
        own = {stream: store[video] for stream, store in stores.items() if video in store}
        lacking = [stream for stream in stores if stream not in own]
        if lacking and (missing_audio == "drop" or not _only_sound(lacking, stores)):
            absent[video] = f"{lacking[0]}: {stores[lacking[0]].absent.get(video, 'not extracted')}"
            continue
        picture = _picture(video, {stream: value for stream, value in own.items() if not is_sound(stream)})
        sounds = {stream: value for stream, value in own.items() if is_sound(stream)}
        if picture is not None:
            made_up = {stream: _silence(stores[stream], picture, fusion) for stream in lacking}
            if missing_audio == "mask":
                sounds = {stream: _marked(value, 1.0) for stream, value in sounds.items()}
                made_up = {stream: _marked(value, 0.0) for stream, value in made_up.items()}
            sounds |= made_up
        found[video] = _join(video, fusion, picture, [sounds[name] for name in stores if name in sounds])
        if lacking:
            silent.append(video)
    _report("+".join(stores), found, absent, silent)
    if not found:
        problem = f"no video has {' and '.join(stores)} features ({len(absent)} lack them)"
        raise InputError(next(iter(paths.values()))[0], problem)
    return StreamFeatures(found, absent, silent)


def _only_sound(lacking: Sequence[str], stores: Mapping[str, FeatureStore]) -> bool:
    """Whether a video that lacks these streams has a picture, and its sound can be made up."""
    there = any(not is_sound(stream) for stream in stores)
    return there and all(is_sound(stream) and stores[stream] for stream in lacking)


def _picture(video: str, streams: Mapping[str, VideoFeatures]) -> VideoFeatures | None:
    """All visual streams side by side, as one; None without any."""
    if len(streams) < 2:
        return next(iter(streams.values()), None)
    counts = {stream: len(features.values) for stream, features in streams.items()}
    if len(set(counts.values())) > 1:
        told = " and ".join(f"{count} {stream}" for stream, count in counts.items())
        problem = f"{told} snippets: visual streams need equally many, extract them on the same grid"
        raise InputError("features", problem, video)
    first = next(iter(streams.values()))
    values = np.concatenate([features.values for features in streams.values()], axis=1)
    return VideoFeatures(values, first.axis)


def _join(
    video: str, fusion: str | None, picture: VideoFeatures | None, sounds: Sequence[VideoFeatures]
) -> VideoFeatures:
    joined, *others = sounds if picture is None else (picture, *sounds)
    for sound in others:
        try:
            joined = fuse(str(fusion), joined, sound)
        except InputError as error:
            raise InputError(error.source, error.problem, video) from error
    return joined


def _silence(store: FeatureStore, picture: VideoFeatures, fusion: str | None) -> VideoFeatures:
    """Zeros for as long as the picture lasts, at the rate of the stream's other videos if that may differ."""
    example = next(iter(store.values()))
    axis, count = picture.axis, len(picture.values)
    if fusion not in EQUAL_COUNTS:
        axis, count = example.axis, max(1, round(count * axis.stride / example.axis.stride))
    return VideoFeatures(np.zeros((count, example.values.shape[1]), np.float32), axis)


def _marked(sound: VideoFeatures, heard: float) -> VideoFeatures:
    """`sound` with one more channel that says whether it is there."""
    mark = np.full((len(sound.values), 1), heard, dtype=np.float32)
    return VideoFeatures(np.concatenate([sound.values, mark], axis=1), sound.axis)


def _report(
    streams: str, found: Mapping[str, VideoFeatures], absent: Mapping[str, str], silent: Sequence[str]
) -> None:
    for video, reason in absent.items():
        logger.warning("%s is left out (%s)", video, reason)
    quiet = f", {len(silent)} of them without sound" if silent else ""
    logger.info("%s: %d videos%s, %d left out", streams, len(found), quiet, len(absent))
