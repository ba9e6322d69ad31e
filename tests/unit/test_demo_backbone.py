"""Training of the demo's small backbones: what they see, what they write, and that they learn something."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from avfusion.backbones.extract import StreamConfig, extract_video, visual_input
from avfusion.backbones.from_config import ready_backbone
from avfusion.backbones.weights import BackboneConfig
from avfusion.data.annotations import Annotations, Instance
from avfusion.data.manifest import ManifestRow
from avfusion.demo.backbone import BackboneTraining, Recording, _Windows, read_recording, train_backbone
from avfusion.demo.config import DemoConfig
from avfusion.demo.render import render_shard
from avfusion.demo.scenes import annotations, plan
from avfusion.errors import InputError
from avfusion.media.clips import VisualSource, visual_clips
from avfusion.media.probe import probe
from avfusion.media.snippets import AudioGeometry, SnippetGeometry

# 64 pixels: OpenCV's dense inverse search is not reproducible on much smaller pictures.
GEOMETRY = SnippetGeometry(window=8, stride=4, fps=12.5, size=64)
I3D = BackboneConfig("i3d", width=1 / 32, endpoint="Mixed_3c")
STREAMS = {
    "rgb": StreamConfig("rgb", I3D, GEOMETRY),
    "flow": StreamConfig("flow", replace(I3D, in_channels=2), GEOMETRY, flow="dis"),
    "audio": StreamConfig("audio", BackboneConfig("vggish", width=1 / 32), AudioGeometry(follow=GEOMETRY)),
}
QUICK = BackboneTraining(steps=2, batch_size=4)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Rows and annotations of four quiet training videos, on disk."""
    config = DemoConfig(
        train_videos=4,
        test_videos=1,
        duration=(8.0, 8.0),
        instance=(1.5, 2.0),
        gap=(0.4, 0.6),
        silent_motion=0.0,
        offscreen_sound=0.0,
        noise=2.0,
        camera=0.0,
        clutter=0,
        hiss=-30.0,
        loudness=(0.0, 0.0),
        radius=(0.13, 0.18),
        clicks=0.0,
        sizes=((80, 64),),
    )
    folder = tmp_path_factory.mktemp("media")
    paths = {path.stem: path for path in render_shard(config, 0, 1, folder, seed=1)}
    rows = [
        ManifestRow(
            name, scene.subset, str(paths[name]), scene.duration, float(scene.fps), scene.frames, True
        )
        for name, scene in plan(config, 1).items()
    ]
    return rows, annotations(plan(config, 1))


def recording(frames=100, rate=10.0, start=0.0, instances=()):
    return Recording(np.arange(frames, dtype=np.float32)[:, None], rate, start, instances)


def test_a_window_lies_around_its_centre_and_inside_the_video():
    assert recording().window(5.0, 4)[:, 0].tolist() == [48, 49, 50, 51]
    assert recording(start=1.0).window(5.0, 4)[:, 0].tolist() == [38, 39, 40, 41]
    assert recording().window(0.0, 4)[:, 0].tolist() == [0, 1, 2, 3]
    assert recording().window(10.0, 4)[:, 0].tolist() == [96, 97, 98, 99]
    assert recording(frames=3).window(0.1, 5)[:, 0].tolist() == [0, 1, 2, 2, 2]


def test_windows_come_from_the_actions_and_background_in_the_asked_shares():
    instances = (Instance(2.0, 3.0, "a"), Instance(6.0, 8.0, "b"))
    audio, options = STREAMS["audio"], BackboneTraining(batch_size=30, background=4.0)
    source = Recording(np.repeat(np.arange(1000.0, dtype=np.float32)[:, None], 64, 1), 100.0, 0.0, instances)
    values, target = _Windows(audio, [source], ["a", "b"], options, seed=0).batch()
    assert values.shape == (30, 96, 64)
    assert torch.bincount(target).tolist() == [5, 5, 20]
    for window, label in zip(values, target, strict=True):
        centre = window.mean().item() / 100
        inside = [2.0 < centre < 3.0, 6.0 < centre < 8.0, not (2.1 < centre < 2.9 or 6.1 < centre < 7.9)]
        assert inside[label]


@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_frames_are_those_that_extraction_sees(videos, stream):
    row = videos[0][0]
    config = STREAMS[stream]
    seen = read_recording(config, row.path, ())
    clips = visual_clips(row.path, probe(row.path), {stream: VisualSource(GEOMETRY, config.flow)})
    for index, (_, clip) in enumerate(clips):
        np.testing.assert_array_equal(seen.window(seen.start + (4 * index + 4) / 12.5, 8), clip)
    assert seen.values.shape[1:] == (64, 64, 3 if stream == "rgb" else 2)
    assert seen.end == pytest.approx(row.duration, abs=0.1)


def test_a_mirrored_flow_points_the_other_way(videos):
    config = STREAMS["flow"]
    source = Recording(np.zeros((20, 64, 64, 2), np.uint8), 12.5, 0.0, (Instance(0, 1, "a"),))
    options = BackboneTraining(batch_size=16, shift=0, background=0.0)
    batch, _ = _Windows(config, [source], ["a"], options, seed=0).batch()
    plain = visual_input(source.values[None, :8])
    assert {clip[0, 0, 0, 0].item() for clip in batch} == {-1.0, 1.0}
    assert torch.equal(batch[:, 1], plain[:, 1].expand(16, -1, -1, -1))


@pytest.mark.parametrize("stream", ["rgb", "flow", "audio"])
def test_one_seed_gives_one_file_which_extraction_loads(videos, tmp_path, stream):
    rows, truth = videos
    train, config = truth.subset("train"), STREAMS[stream]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    description = train_backbone(config, rows, train, 7, tmp_path / "a.pt", QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    train_backbone(config, rows, train, 7, tmp_path / "b.pt", QUICK)
    train_backbone(config, rows, train, 8, tmp_path / "c.pt", QUICK)
    a, b, c = ((tmp_path / f"{name}.pt").read_bytes() for name in "abc")
    assert a == b != c
    assert description["videos"] == 4 and description["stream"] == stream
    assert json.loads((tmp_path / "a.json").read_text()) == description
    assert not any("classifier" in name for name in torch.load(tmp_path / "a.pt", weights_only=True))
    backbone = ready_backbone(config, str(tmp_path / "a.pt"), "cpu")
    features = extract_video(rows[-1].path, [config], {stream: backbone})[stream]
    assert np.isfinite(features.values).all()


def test_only_training_videos_that_can_be_used_are_opened(videos, tmp_path):
    rows, truth = videos
    bad = [replace(rows[0], id="x", path="/nowhere.mp4"), replace(rows[1], path="/nowhere.mp4", status="bad")]
    silent = [replace(rows[2], path="/nowhere.mp4", has_audio=False)]
    usable = [*bad, *silent, rows[0], rows[3]]
    description = train_backbone(STREAMS["audio"], usable, truth.subset("train"), 0, tmp_path / "a.pt", QUICK)
    assert description["videos"] == 2


def test_without_an_action_there_is_nothing_to_train_on(videos, tmp_path):
    rows, truth = videos
    empty = {name: replace(video, instances=()) for name, video in truth.videos.items()}
    with pytest.raises(InputError, match="no usable training video has an action"):
        train_backbone(STREAMS["rgb"], rows, Annotations(empty, truth.labels), 0, tmp_path / "a.pt", QUICK)
    assert list(tmp_path.iterdir()) == []


def test_it_learns_to_hear_quiet_videos_apart(videos, tmp_path):
    rows, truth = videos
    wider = replace(STREAMS["audio"], backbone=BackboneConfig("vggish", width=1 / 16))
    options = BackboneTraining(steps=60, batch_size=16, lr=3e-3, background=1.0)
    description = train_backbone(wider, rows, truth.subset("train"), 0, tmp_path / "a.pt", options)
    assert description["accuracy_of_last_windows"] > 0.35  # chance is 1/9; a perfect ear reaches about 0.55


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("lr", 0.0), ("dropout", 1.0), ("shift", -1)])
def test_impossible_options_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name}: "):
        BackboneTraining(**{name: value})
