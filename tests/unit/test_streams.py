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


def sound_of(values: list[float]) -> VideoFeatures:
    return VideoFeatures(np.array(values, dtype=np.float32)[:, None], AXIS)


def one_file(path: Path, stream: str, videos: dict[str, VideoFeatures]) -> list[Path]:
    with FeatureWriter(path) as out:
        out.stream(stream, backbone="none", weights="none")
        for video, value in videos.items():
            out.add(stream, video, value)
    return [path]


def test_videos_that_lack_a_stream_are_told(shards: dict[str, list[Path]]) -> None:
    videos = ["whole", "silent", "broken"]
    dropped = load_streams(shards, videos, "concat")
    assert dropped.absent == {"silent": "audio: no sound track", "broken": "rgb: truncated"}
    assert dropped.silent == []
    filled = load_streams(shards, videos, "concat", "zeros")
    assert filled.absent == {"broken": "rgb: truncated"} and filled.silent == ["silent"]


def test_mask_says_where_there_is_sound(shards: dict[str, list[Path]]) -> None:
    for fusion in ("concat", "rm_attention", "aligned", "dup_trim"):
        found = load_streams(shards, ["whole", "silent"], fusion, "mask")
        assert found["whole"].values.tolist() == [[1, 1, 1, 2, 2, 1]] * 4
        assert found["silent"].values.tolist() == [[1, 1, 1, 0, 0, 0]] * 4
        assert found["whole"].widths == found["silent"].widths == (3, 3)


def test_silence_has_the_rate_of_the_sound(tmp_path: Path) -> None:
    """So that what the fusion does with the picture does not depend on whether there is sound."""
    fine = VideoFeatures(np.ones((8, 2), dtype=np.float32), TimeAxis(0.5, 0.125, 1.0))
    paths = {
        "rgb": one_file(tmp_path / "rgb.h5", "rgb", {"a": features(1, 3), "b": features(1, 3)}),
        "audio": one_file(tmp_path / "audio.h5", "audio", {"a": fine}),
    }
    for fusion, count in (("dup_trim", 8), ("avg_trim", 4), ("aligned", 4), ("avg_trim_mended", 4)):
        found = load_streams(paths, ["a", "b"], fusion, "zeros")
        assert found["a"].values.shape == found["b"].values.shape == (count, 5), fusion
        assert found["a"].axis == found["b"].axis
    with pytest.raises(InputError, match=r"fusion 'concat': a: 4 visual and 8 audio snippets"):
        load_streams(paths, ["a", "b"], "concat", "zeros")


def test_visual_streams_are_one_picture_whatever_the_fusion(tmp_path: Path) -> None:
    paths = {
        "rgb": one_file(tmp_path / "rgb.h5", "rgb", {"a": features(1, 3)}),
        "flow": one_file(tmp_path / "flow.h5", "flow", {"a": features(2, 2)}),
        "audio": one_file(tmp_path / "audio.h5", "audio", {"a": sound_of([0, 1, 2, 3, 4, 5, 6, 7])}),
        "audio_fine": one_file(tmp_path / "fine.h5", "audio_fine", {"a": features(9, 1)}),
    }
    pictures = load_streams({k: paths[k] for k in ("rgb", "flow")}, ["a"], None)
    assert pictures["a"].values.tolist() == [[1, 1, 1, 2, 2]] * 4
    assert load_streams(paths, ["a"], "avg_trim_mended")["a"].widths == (5, 1, 1)
    joined = load_streams({k: paths[k] for k in ("rgb", "flow", "audio")}, ["a"], "avg_trim_mended")["a"]
    assert joined.values.tolist() == [[1, 1, 1, 2, 2, 2 * i + 0.5] for i in range(4)]
    with pytest.raises(InputError, match="fusion: the streams rgb and audio need one"):
        load_streams({k: paths[k] for k in ("rgb", "audio")}, ["a"], None)


def test_visual_streams_of_other_lengths(tmp_path: Path) -> None:
    longer = VideoFeatures(np.ones((5, 2), dtype=np.float32), AXIS)
    paths = {
        "rgb": one_file(tmp_path / "rgb.h5", "rgb", {"a": features(1, 3)}),
        "flow": one_file(tmp_path / "flow.h5", "flow", {"a": longer}),
    }
    with pytest.raises(InputError, match="features: a: 4 rgb and 5 flow snippets: visual streams need"):
        load_streams(paths, ["a"], None)
