"""One pass over a file gives the snippets of several streams."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from media_files import number, tone, write_video

from avfusion.data.features import TimeAxis
from avfusion.errors import MediaError
from avfusion.media.audio import read_audio, resample
from avfusion.media.clips import VisualSource, audio_clips, visual_clips, visual_grid, visual_runs
from avfusion.media.decode import VideoReader, centre_crop, read_frames
from avfusion.media.flow import optical_flow, quantise, snippet_flow
from avfusion.media.probe import probe
from avfusion.media.snippets import AudioGeometry, SnippetGeometry

SMALL = SnippetGeometry(window=8, stride=4, size=24, short_side=32)


def _clips(path: Path, **sources: VisualSource) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {name: [] for name in sources}
    for name, clip in visual_clips(path, probe(path), sources):
        found[name].append(clip)
    return found


@pytest.mark.parametrize("fps", [None, 12.5, 40.0])
def test_snippets_see_the_frames_of_their_time(tmp_path: Path, fps: float | None) -> None:
    path = write_video(tmp_path / "a.mp4", 0.2 + np.arange(30) / 25, sound=tone(0.3))
    geometry = SnippetGeometry(window=8, stride=4, fps=fps, size=24)
    clips = _clips(path, rgb=VisualSource(geometry))["rgb"]
    axis, count = visual_grid(probe(path), geometry)
    assert len(clips) == count
    rate = fps or 25
    assert (axis.first, axis.stride, axis.window) == pytest.approx(
        (0.2 + 4 / rate, 4 / rate, 8 / rate), abs=1e-3
    )
    for centre, clip in zip(axis.centres(count), clips, strict=True):
        assert clip.shape == (8, 24, 24, 3)
        assert clip.dtype == np.uint8
        times = centre - axis.window / 2 + np.arange(8) / rate
        assert [number(frame) for frame in clip] == [int((t - 0.2) * 25 + 0.05) % 20 for t in times]


def test_streams_of_different_geometry_share_a_pass(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(30) / 25)
    other = SnippetGeometry(window=4, stride=2, fps=10, size=16)
    together = _clips(
        path, rgb=VisualSource(SMALL), flow=VisualSource(SMALL, "dis"), slow=VisualSource(other)
    )
    assert [len(together[name]) for name in ("rgb", "flow", "slow")] == [6, 6, 5]
    for name, source in (("rgb", VisualSource(SMALL)), ("slow", VisualSource(other))):
        assert np.array_equal(together[name], _clips(path, **{name: source})[name])


def test_flow_is_that_of_the_whole_frame_and_its_last_one_is_repeated(tmp_path: Path) -> None:
    import cv2

    path = _moving(tmp_path / "a.mp4", frames=12)
    geometry = SnippetGeometry(window=4, stride=4, size=40, short_side=64)
    clips = np.concatenate(_clips(path, flow=VisualSource(geometry, "dis"))["flow"])
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for _, image in read_frames(path, short_side=64)]
    flows = [quantise(optical_flow(a, b, "dis")) for a, b in itertools.pairwise(grey)]
    flows.append(flows[-1])
    expected = np.stack([flow[12:52, 28:68] for flow in flows])
    assert np.array_equal(clips, expected)
    assert abs(np.median(clips[..., 0]) - 128) > 8  # about 2 pixels to the right


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("flow", [None, "dis"])
def test_a_video_shorter_than_a_window_gives_one_snippet(
    tmp_path: Path, frames: int, flow: str | None
) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(frames) / 25)
    (clip,) = _clips(path, x=VisualSource(SMALL, flow))["x"]
    assert clip.shape == (8, 24, 24, 3 if flow is None else 2)
    if flow is None:
        assert [number(frame) for frame in clip] == [*range(frames), *[frames - 1] * (8 - frames)]
    else:
        assert (clip == 128).all()  # flat grey frames do not move


def test_frames_that_cannot_be_decoded_do_not_move_the_grid(tmp_path: Path) -> None:
    """Cut so that the first frames lack their key frame: the first decodable one stands for them."""
    path = _without_first_key_frame(tmp_path)
    info = probe(path)
    geometry = SnippetGeometry(window=8, stride=4, size=24)
    clips = _clips(path, rgb=VisualSource(geometry))["rgb"]
    _, count = visual_grid(info, geometry)
    with VideoReader(path) as reader:
        assert next(iter(reader)).start > info.start + 0.1
    assert len(clips) == count == geometry.count(info.frames)


def test_frames_that_all_end_before_the_grid_begins(tmp_path: Path) -> None:
    """As in an AVI file whose header has a wrong start: packets and frames then disagree."""
    path = write_video(tmp_path / "a.mp4", np.arange(12) / 25)
    info = dataclasses.replace(probe(path), start=8.0, end=8.48)
    for flow in (None, "dis"):
        clips = [clip for _, clip in visual_clips(path, info, {"x": VisualSource(SMALL, flow)})]
        assert len(clips) == SMALL.count(12)


def test_too_little_that_can_be_decoded_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(50) / 25)
    info = probe(path)
    longer = dataclasses.replace(info, end=9.0)
    with pytest.raises(MediaError, match=r"only 2\.0 of 9\.0 s can be decoded"):
        list(visual_clips(path, longer, {"rgb": VisualSource(SMALL)}))


def test_sound_on_its_own_grid(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(5) / 25, sound=tone(3.5))
    axis, clips = audio_clips(path, AudioGeometry())
    windows = list(clips)
    samples = resample(read_audio(path)).samples
    assert axis == TimeAxis(0.48, 0.96, 0.96)
    assert len(windows) == 3
    for i, window in enumerate(windows):
        assert np.array_equal(window, samples[i * 15360 : i * 15360 + 15600])


def test_sound_around_the_centres_of_the_pictures(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", np.arange(50) / 25, sound=tone(1.0))
    grid = visual_grid(probe(path), SMALL)
    axis, clips = audio_clips(path, AudioGeometry(window=0.96, follow=SMALL), grid)
    windows = list(clips)
    assert (len(windows), axis) == (grid[1], TimeAxis(grid[0].first, grid[0].stride, 0.96))
    samples = np.pad(resample(read_audio(path)).samples, (16000, 48000))
    for centre, window in zip(axis.centres(len(windows)), windows, strict=True):
        first = 16000 + round((centre - 0.48) * 16000)
        assert np.array_equal(window, samples[first : first + 15600])


def _moving(path: Path, frames: int) -> Path:
    import av
    import cv2

    noise = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((64, 96 + 2 * frames)), (0, 0), 2)
    texture = ((noise - noise.min()) / np.ptp(noise) * 255).astype(np.uint8)
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"crf": "10"})
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        for i in range(frames):
            left = 2 * (frames - i)
            image = np.repeat(texture[:, left : left + 96, None], 3, axis=2)
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        out.mux(video.encode(None))
    return path


def _without_first_key_frame(folder: Path) -> Path:
    """A transport stream whose first packets were lost."""
    import av

    whole = folder / "whole.ts"
    with av.open(str(whole), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"g": "10"})
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        for i in range(60):
            image = np.full((64, 96, 3), 20 + 10 * (i % 20), np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(video.encode(None))
    path = folder / "cut.ts"
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        track = out.add_stream_from_template(source.streams.video[0])
        for number_, packet in enumerate(source.demux(video=0)):
            if number_ >= 3 and packet.size:
                packet.stream = track
                out.mux(packet)
    return path


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 12, 13, 23, 24])
@pytest.mark.parametrize(("stride", "run"), [(4, 1), (4, 3), (1, 2), (8, 2), (10, 2)])
def test_flow_of_grey_frames_is_the_flow_of_the_clips(
    tmp_path: Path, frames: int, stride: int, run: int
) -> None:
    path = _moving(tmp_path / "a.mp4", frames)
    info = probe(path)
    geometry = SnippetGeometry(window=8, stride=stride, size=40, short_side=48)
    expected = [clip for _, clip in visual_clips(path, info, {"x": VisualSource(geometry, "dis", run)})]
    runs = [found for _, found in visual_runs(path, info, {"x": VisualSource(geometry, run=run, grey=True)})]
    assert len(runs) == len(expected)
    for clip, found in zip(expected, runs, strict=True):
        motion = snippet_flow(torch.from_numpy(found.stacked()), len(clip), "dis").numpy()
        assert len(clip) == 8 + (found.windows - 1) * stride
        assert np.array_equal(np.stack([centre_crop(image, 40) for image in motion]), clip)
    if frames > 8:
        assert np.abs(expected[0].astype(int) - 128).max() > 4
