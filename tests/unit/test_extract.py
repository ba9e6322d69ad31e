"""Extraction: features of every stream, where they lie in time, and what happens to bad files."""

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from media_files import tone, write_video

from avfusion.backbones.extract import Backbone, StreamConfig, extract_shard, extract_video, visual_input
from avfusion.backbones.weights import BackboneConfig, load_backbone
from avfusion.cli.extract import parse_streams, parse_weights
from avfusion.cli.main import main
from avfusion.data.features import FeatureStore, VideoFeatures
from avfusion.data.manifest import ManifestRow
from avfusion.errors import InputError
from avfusion.media.clips import VisualSource, visual_clips
from avfusion.media.probe import probe
from avfusion.media.snippets import AudioGeometry, SnippetGeometry

FRAMES = SnippetGeometry(window=8, stride=4, size=32)
SMALL = BackboneConfig("i3d", width=0.1, endpoint="Mixed_3c")
STREAMS = {
    "rgb": StreamConfig("rgb", SMALL, FRAMES),
    "flow": StreamConfig("flow", SMALL, FRAMES, flow="dis", batch_size=3),
    "audio": StreamConfig("audio", BackboneConfig("vggish", width=0.05), AudioGeometry(follow=FRAMES)),
}


@pytest.fixture(scope="module")
def backbones() -> dict[str, Backbone]:
    return {name: Backbone(*load_backbone(name, "random:0", c.backbone)) for name, c in STREAMS.items()}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.5 s at 20 frames/s, the pictures 0.2 s late, with 2 s of sound."""
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    return write_video(path, 0.2 + np.arange(30) / 20, rate=20, sound=tone(2.0))


def test_streams_have_their_snippets_at_their_times(clip: Path, backbones: dict[str, Backbone]) -> None:
    results = extract_video(clip, list(STREAMS.values()), backbones)
    assert list(results) == ["rgb", "flow", "audio"]
    rgb, flow, audio = (_features(results[name]) for name in results)
    assert len(rgb.values) == len(flow.values) == len(audio.values) == 6
    assert rgb.values.dtype == np.float32
    assert rgb.values.shape[1] == backbones["rgb"].module.channels
    assert audio.values.shape[1] == 128
    assert (rgb.axis.first, rgb.axis.stride, rgb.axis.window) == pytest.approx((0.4, 0.2, 0.4), abs=1e-3)
    assert flow.axis == rgb.axis
    assert (audio.axis.first, audio.axis.stride, audio.axis.window) == (rgb.axis.first, rgb.axis.stride, 0.96)
    for features in (rgb, flow, audio):
        assert np.ptp(features.values, axis=1).min() > 0


def test_a_stream_does_not_depend_on_its_company(clip: Path, backbones: dict[str, Backbone]) -> None:
    together = extract_video(clip, list(STREAMS.values()), backbones)
    for name, config in STREAMS.items():
        alone = _features(extract_video(clip, [config], backbones)[name])
        assert alone.axis == _features(together[name]).axis
        assert np.array_equal(alone.values, _features(together[name]).values)


def test_batches_change_nothing_but_rounding(clip: Path, backbones: dict[str, Backbone]) -> None:
    values = []
    for size in (1, 4):
        config = dataclasses.replace(STREAMS["rgb"], batch_size=size)
        values.append(_features(extract_video(clip, [config], backbones)["rgb"]).values)
    assert np.abs(values[0] - values[1]).max() < 1e-5 * np.abs(values[0]).max()


def test_each_feature_is_the_network_of_its_snippet(clip: Path, backbones: dict[str, Backbone]) -> None:
    snippets = [c for _, c in visual_clips(clip, probe(clip), {"rgb": VisualSource(FRAMES)})]
    values = _features(extract_video(clip, [STREAMS["rgb"]], backbones)["rgb"]).values
    with torch.inference_mode():
        for snippet, value in zip(snippets, values, strict=True):
            x = torch.from_numpy(snippet.astype(np.float32) / 255 * 2 - 1).permute(3, 0, 1, 2)[None]
            expected = backbones["rgb"].module.extract_features(x).numpy()[0]
            assert np.abs(value - expected).max() < 1e-4 * np.abs(expected).max()


def test_visual_input_is_scaled_to_plus_minus_one() -> None:
    clips = np.zeros((2, 8, 4, 5, 3), np.uint8)
    clips[0, :, :, :, 1] = 255
    x = visual_input(clips)
    assert x.shape == (2, 3, 8, 4, 5)
    assert x.dtype == torch.float32
    assert (x[0, 1] == 1).all()
    assert (x[:, 0] == -1).all()


def test_longer_sound_snippets_are_the_mean_of_their_examples(
    clip: Path, backbones: dict[str, Backbone]
) -> None:
    def values(window: float) -> np.ndarray:
        config = dataclasses.replace(STREAMS["audio"], geometry=AudioGeometry(window, stride=0.96))
        return _features(extract_video(clip, [config], backbones)["audio"]).values

    short, long = values(0.96), values(1.92)
    assert (len(short), len(long)) == (2, 1)
    assert long[0] == pytest.approx(short.mean(axis=0), rel=1e-4, abs=1e-6)


def test_no_sound_leaves_the_pictures(tmp_path: Path, backbones: dict[str, Backbone]) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(10) / 25)
    results = extract_video(path, list(STREAMS.values()), backbones)
    assert results["audio"] == "no sound track"
    assert isinstance(results["rgb"], VideoFeatures)
    assert isinstance(results["flow"], VideoFeatures)


def test_sound_without_pictures(tmp_path: Path, backbones: dict[str, Backbone]) -> None:
    path = write_video(tmp_path / "a.mp4", [], sound=tone(2.5))
    own = dataclasses.replace(STREAMS["audio"], geometry=AudioGeometry())
    results = extract_video(path, [STREAMS["rgb"], own], backbones)
    assert results["rgb"] == "no video track"
    assert _features(results["audio"]).values.shape == (2, 128)
    assert extract_video(path, [STREAMS["audio"]], backbones) == {"audio": "no video track"}


@pytest.mark.parametrize("content", [b"", b"nothing of use" * 100])
def test_a_bad_file_is_a_reason_for_every_stream(
    tmp_path: Path, content: bytes, backbones: dict[str, Backbone]
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    results = extract_video(path, list(STREAMS.values()), backbones)
    assert set(results) == set(STREAMS)
    assert set(results.values()) <= {"the file is empty", "not a video file"}


def test_shard_holds_features_reasons_and_how_they_were_made(
    tmp_path: Path, clip: Path, backbones: dict[str, Backbone]
) -> None:
    rows = [
        ManifestRow("good", "train", str(clip), 2.0, 20.0, 30, True, 44100),
        ManifestRow("gone", "train", "gone.mp4", status="no file"),
        ManifestRow("vanished", "train", str(tmp_path / "vanished.mp4"), 2.0, 20.0, 30, True, 44100),
    ]
    out = tmp_path / "shard.h5"
    absent = extract_shard(rows, list(STREAMS.values()), backbones, out)
    assert absent == {
        "gone": dict.fromkeys(STREAMS, "no file"),
        "vanished": dict.fromkeys(STREAMS, "no such file"),
    }
    for name, config in STREAMS.items():
        store = FeatureStore([out], name)
        assert list(store) == ["good"]
        assert store.absent == {"gone": "no file", "vanished": "no such file"}
        assert store.attributes["weights"] == "random:0"
        assert store.attributes["backbone"] == str(config.backbone)
        assert json.loads(store.attributes["geometry"])["window"] == config.geometry.window
        assert store.attributes.get("flow") == config.flow
        assert "avfusion" in store.attributes
    with h5py.File(out) as file:
        assert sorted(file) == ["audio", "flow", "rgb"]


def test_shards_may_have_a_file_per_stream(
    tmp_path: Path, clip: Path, backbones: dict[str, Backbone]
) -> None:
    rows = [ManifestRow("good", "train", str(clip))]
    outputs = {name: tmp_path / name / "0.h5" for name in ("rgb", "audio")}
    extract_shard(rows, [STREAMS["rgb"], STREAMS["audio"]], backbones, outputs)
    for name, path in outputs.items():
        assert list(FeatureStore([path], name)) == ["good"]


def test_one_seed_one_file(tmp_path: Path, clip: Path, backbones: dict[str, Backbone]) -> None:
    for name in ("a", "b"):
        extract_shard([ManifestRow("v", "", str(clip))], list(STREAMS.values()), backbones, tmp_path / name)
    for stream in STREAMS:
        first, second = (FeatureStore([tmp_path / name], stream)["v"] for name in ("a", "b"))
        assert np.array_equal(first.values, second.values)


def test_config_that_cannot_be() -> None:
    with pytest.raises(TypeError, match="'rgb' needs a SnippetGeometry"):
        StreamConfig("rgb", SMALL, AudioGeometry())
    with pytest.raises(ValueError, match="flow method"):
        StreamConfig("flow", SMALL, FRAMES)
    with pytest.raises(ValueError, match="flow method"):
        StreamConfig("rgb", SMALL, FRAMES, flow="dis")
    with pytest.raises(ValueError, match="batch"):
        StreamConfig("rgb", SMALL, FRAMES, batch_size=0)


# The command. Small pictures, so that the full networks run in a second or two.

TINY = ["--window", "8", "--stride", "16", "--size", "32"]


def test_command_writes_a_file_and_says_what_is_in_it(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = write_video(tmp_path / "silent.mp4", np.arange(10) / 25)
    out = tmp_path / "out.h5"
    videos = [str(clip), str(silent), str(tmp_path / "none.mp4")]
    assert main(["extract", *videos, *TINY, "--weights", "random:0", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "audio: absent: no sound track" in said
    assert "flow: i3d" in said and "dis flow, weights random:0" in said
    assert said.count("absent") == 4
    assert list(FeatureStore([out], "rgb")) == ["clip", "silent"]
    assert FeatureStore([out], "audio").absent["silent"] == "no sound track"


def test_command_fails_if_no_video_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    arguments = ["--streams", "rgb", *TINY, "--weights", "random:0", "--out", str(tmp_path / "o.h5")]
    assert main(["extract", str(tmp_path / "a.mp4"), *arguments]) == 1
    shown = capsys.readouterr()
    assert "the file is empty" in shown.out
    assert "no video could be used" in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no weights for the stream 'rgb'"),
        (["--weights", "rgb=nowhere.pt"], "nowhere.pt"),
        (["--weights", "audio=random:0", "--streams", "rgb"], "names the stream 'audio'"),
        (["--weights", "random"], "must be random:SEED or like"),
        (["--weights", "random:0", "--short-side", "10"], "short_side"),
        (["--weights", "random:0", "--fps", "-3"], "fps"),
    ],
)
def test_command_explains_what_is_wrong(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    out = tmp_path / "o.h5"
    assert main(["extract", str(clip), *arguments, "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("avfusion: error: ")
    assert error.count("\n") == 1
    assert not out.exists()


def test_two_files_of_one_name(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "clip.mkv"
    other.write_bytes(clip.read_bytes())
    arguments = ["--streams", "rgb", "--weights", "random:0", "--out", str(tmp_path / "o.h5")]
    assert main(["extract", str(clip), str(other), *arguments]) == 1
    assert "has the same id as" in capsys.readouterr().err


def test_options() -> None:
    assert parse_streams("flow,rgb") == ("rgb", "flow")
    assert parse_weights("random:3", ("rgb", "audio")) == {"rgb": "random:3", "audio": "random:3"}
    assert parse_weights("rgb=a=b.pt,audio=random:1", ("rgb", "audio")) == {
        "rgb": "a=b.pt",
        "audio": "random:1",
    }
    assert parse_weights(None, ("rgb",)) == {"rgb": None}
    with pytest.raises(InputError):
        parse_weights("rgb=", ("rgb",))


def _features(result: object) -> VideoFeatures:
    assert isinstance(result, VideoFeatures), result
    return result
