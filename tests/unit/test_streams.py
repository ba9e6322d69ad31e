"""The features that an experiment sees, and what becomes of videos that lack a stream."""

import logging
from pathlib import Path

import numpy as np
import pytest

from avfusion.data.features import FeatureWriter, TimeAxis, VideoFeatures
from avfusion.errors import InputError
from avfusion.fusion.streams import load_streams

AXIS = TimeAxis(first=0.5, stride=0.25, window=1.0)


def features(value: float, channels: int) -> VideoFeatures:
    return VideoFeatures(np.full((4, channels), value, dtype=np.float32), AXIS)


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, list[Path]]:
    """Three videos in two shards: one whole, one without sound, one that could not be read."""
    paths: dict[str, list[Path]] = {"rgb": [], "audio": []}
    for shard, (video, sound) in enumerate((("whole", True), ("silent", False))):
        for stream, value, channels in (("rgb", 1.0, 3), ("audio", 2.0, 2)):
            paths[stream].append(tmp_path / f"{stream}{shard}.h5")
            with FeatureWriter(paths[stream][-1]) as out:
                out.stream(stream, backbone="none", weights="none")
                if stream == "rgb" or sound:
                    out.add(stream, video, features(value, channels))
                else:
                    out.absent(stream, video, "no sound track")
                if shard:
                    out.absent(stream, "broken", "truncated")
    return paths


def test_streams_are_joined_in_the_order_given(shards: dict[str, list[Path]]) -> None:
    found = load_streams(shards, ["whole"], "concat")
    assert found["whole"].values.tolist() == [[1, 1, 1, 2, 2]] * 4
    assert found["whole"].axis == AXIS
    assert load_streams({"audio": shards["audio"]}, ["whole"], None)["whole"].values.tolist() == [[2, 2]] * 4


def test_a_video_without_sound_is_dropped_or_taken_as_silent(
    shards: dict[str, list[Path]], caplog: pytest.LogCaptureFixture
) -> None:
    videos = ["whole", "silent", "broken"]
    with caplog.at_level(logging.INFO, "avfusion"):
        assert set(load_streams(shards, videos, "concat")) == {"whole"}
    assert "silent is left out (audio: no sound track)" in caplog.text
    assert "broken is left out (rgb: truncated)" in caplog.text
    assert "1 videos, 2 left out" in caplog.text
    found = load_streams(shards, videos, "concat", missing_audio="zeros")
    assert set(found) == {"whole", "silent"}
    assert found["silent"].values.tolist() == [[1, 1, 1, 0, 0]] * 4


def test_sound_alone_is_never_made_up(shards: dict[str, list[Path]]) -> None:
    assert set(load_streams({"audio": shards["audio"]}, ["whole", "silent"], None, "zeros")) == {"whole"}


def test_nothing_left_is_an_error(shards: dict[str, list[Path]]) -> None:
    with pytest.raises(InputError, match="no video has rgb and audio features"):
        load_streams(shards, ["silent", "broken"], "concat")
