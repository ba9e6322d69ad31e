"""The features that an experiment sees: one stream, or several joined by an encoding fusion."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from avfusion.data.features import FeatureStore, VideoFeatures
from avfusion.errors import InputError
from avfusion.fusion.encoding import fuse

MissingAudio = Literal["drop", "zeros"]
logger = logging.getLogger("avfusion")


def load_streams(
    paths: Mapping[str, Sequence[str | Path]],
    videos: Iterable[str],
    fusion: str | None,
    missing_audio: MissingAudio = "drop",
) -> dict[str, VideoFeatures]:
    """Read the features of `videos` and join their streams.

    Args:
        paths: files of every stream, in the order in which streams are joined.
        videos: ids; those that lack a stream are left out, with a line in the log.
        fusion: name of the encoding fusion (`avfusion.fusion.encoding`); None with a single stream.
        missing_audio: what happens to a video that lacks only its sound: "drop" leaves it out as well,
            "zeros" takes features of zeros at the snippets of the stream before.

    Raises:
        InputError: no video is left.
    """
    stores = {stream: FeatureStore(files, stream) for stream, files in paths.items()}
    found: dict[str, VideoFeatures] = {}
    lost: dict[str, str] = {}
    for video in videos:
        streams: list[VideoFeatures] = []
        for stream, store in stores.items():
            if video in store:
                streams.append(store[video])
            elif stream == "audio" and streams and missing_audio == "zeros" and store:
                streams.append(_silence(store, streams[-1]))
            else:
                lost[video] = f"{stream}: {store.absent.get(video, 'not extracted')}"
                break
        else:
            found[video] = streams[0]
            for other in streams[1:]:
                found[video] = fuse(str(fusion), found[video], other)
    for video, reason in lost.items():
        logger.warning("%s is left out (%s)", video, reason)
    if not found:
        raise InputError(
            next(iter(paths.values()))[0],
            f"no video has {' and '.join(stores)} features ({len(lost)} lack them)",
        )
    logger.info("%s: %d videos, %d left out", "+".join(stores), len(found), len(lost))
    return found


def _silence(store: FeatureStore, visual: VideoFeatures) -> VideoFeatures:
    channels = next(iter(store.values())).values.shape[1]
    return VideoFeatures(np.zeros((len(visual.values), channels), np.float32), visual.axis)
