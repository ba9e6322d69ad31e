"""Pictures and sound of the demo dataset, and the MP4 files made of them."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from avfusion.demo import draw, render, sound
from avfusion.demo.config import DemoConfig
from avfusion.demo.scenes import ACTIONS, Event, Scene, Span, plan

TINY = DemoConfig(
    train_videos=2,
    test_videos=2,
    duration=(3.0, 4.0),
    instance=(0.8, 1.2),
    gap=(0.4, 0.6),
    softness=0.3,
    linger=(0.1, 0.2),
    sizes=((64, 48),),
)


def event(action, kind="action", start=1.0, end=3.0) -> Event:
    spans = {name: Span(start, end, 0.0 if name == action.crisp else 0.4) for name in ("sight", "sound")}
    return Event(
        kind=kind,
        label=action.label,
        start=start,
        end=end,
        sight=None if kind == "offscreen" else spans["sight"],
        sound=None if kind == "silent" else spans["sound"],
        appears=start - 0.5,
        leaves=end + 0.5,
        x=0.0,
        y=0.0,
        size=0.15,
        tempo=1.5,
        phase=0.0,
        tint=0.0,
        pitch=1.0,
        gain=1.0,
        pan=0.0,
    )


def scene(*events, **changes) -> Scene:
    """A quiet, still 4 s video: what is seen and heard in it are its events."""
    still = Scene(
        id="x",
        subset="train",
        seed=5,
        frames=100,
        fps=Fraction(25),
        width=96,
        height=72,
        sample_rate=22050,
        channels=1,
        events=events,
        noise=0.0,
        camera=0.0,
        clutter=0,
        hiss=-60.0,
        clicks=0.0,
    )
    return replace(still, **changes)


def changes(video: Scene) -> np.ndarray:
    """Mean change of the pixels from frame to frame."""
    pictures = np.stack(list(draw.frames(video))).astype(float)
    return np.abs(np.diff(pictures, axis=0)).mean(axis=(1, 2, 3))


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.label)
def test_a_sprite_moves_during_its_event_and_stands_still_around_it(action):
    moves = changes(scene(event(action)))  # moves[i] is the change from i/25 s to (i+1)/25 s
    ramp = 0 if action.crisp == "sight" else 5
    assert moves[:11].max() < 1e-6 < 0.5 < moves[11:13].max()  # it appears at 0.5 s
    assert moves[14 : 24 - ramp].max() < 0.01
    assert moves[25 + ramp : 73 - ramp].mean() > 0.3
    assert moves[76 + ramp : 86].max() < 0.01


def test_an_offscreen_sound_shows_nothing_and_a_silent_motion_is_not_heard():
    action = ACTIONS[0]
    assert changes(scene(event(action, "offscreen"))).max() == 0
    assert np.abs(sound.samples(scene(event(action, "silent")))).max() < 0.01
    with pytest.raises(ValueError, match="offscreen"):
        draw.pose(event(action, "offscreen"), np.arange(3.0))


def test_look_alikes_look_the_same_and_sound_alikes_sound_the_same():
    def seen(action):
        return np.stack(list(draw.frames(scene(replace(event(action), sight=Span(1, 3, 0))))))

    def heard(action):
        return sound.samples(scene(replace(event(action), sound=Span(1, 3, 0))))

    ball_beep, ball_rasp, box_beep, _, star, ring, spin, orbit = ACTIONS
    np.testing.assert_array_equal(seen(ball_beep), seen(ball_rasp))
    assert np.abs(heard(ball_beep) - heard(ball_rasp)).max() > 0.1
    for one, other in ((ball_beep, box_beep), (star, ring), (spin, orbit)):
        np.testing.assert_array_equal(heard(one), heard(other))
        assert (seen(one) != seen(other)).any()


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.label)
def test_sound_begins_and_ends_with_its_event(action):
    video = scene(event(action))
    wave = sound.samples(video)
    assert wave.shape == (1, 4 * 22050) and wave.dtype == np.float32
    loud = np.flatnonzero(np.abs(wave[0]) > 0.05) / 22050
    slack = 0.45 if action.crisp == "sight" else 0.25  # a beat has pauses, and a soft sound fades
    assert 1 - slack <= loud[0] <= 1 + slack and 3 - slack <= loud[-1] <= 3 + slack
    inside = wave[0, int(1.3 * 22050) : int(2.7 * 22050)]
    assert 0.05 < np.sqrt((inside**2).mean()) < 0.25


def test_gain_is_loudness():
    loud, quiet = (sound.samples(scene(replace(event(ACTIONS[6]), gain=gain))) for gain in (1.0, 0.25))
    assert np.std(loud) / np.std(quiet) == pytest.approx(4, rel=0.02)


def test_noise_clutter_and_camera_do_what_they_say():
    assert changes(scene()).max() == 0
    assert changes(scene(noise=10.0)).mean() == pytest.approx(10 * 2 / np.sqrt(np.pi), rel=0.1)
    assert 0 < changes(scene(clutter=2)).mean() < changes(scene(camera=0.5)).mean()
    quiet, noisy = (float(np.std(sound.samples(scene(hiss=hiss)))) for hiss in (-30.0, -10.0))
    assert noisy / quiet == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize(
    ("fps", "rate", "channels"),
    [(Fraction(24000, 1001), 44100, 2), (Fraction(30), 22050, 1), (Fraction(25), 48000, 2)],
)
def test_the_file_is_h264_and_aac_in_the_scenes_format(tmp_path, fps, rate, channels):
    video = scene(event(ACTIONS[0]), fps=fps, sample_rate=rate, channels=channels)
    render.render_video(video, tmp_path / "x.mp4")
    with av.open(str(tmp_path / "x.mp4")) as file:
        picture, heard = file.streams.video[0], file.streams.audio[0]
        assert (picture.codec_context.name, heard.codec_context.name) == ("h264", "aac")
        assert picture.average_rate == fps and picture.frames == 100
        assert (heard.rate, heard.channels) == (rate, channels)
        assert "synthetic" in file.metadata["comment"]
        times = [frame.time for frame in file.decode(picture)]
        np.testing.assert_allclose(times, np.arange(100) / float(fps), atol=1e-3)
        assert float(heard.duration * heard.time_base) == pytest.approx(video.duration, abs=0.1)


def test_sight_and_sound_are_in_time_with_each_other_in_the_file(tmp_path):
    bounce = replace(event(ACTIONS[0]), sound=Span(1, 3, 0), phase=0.25)  # a beat begins half a cycle later
    render.render_video(scene(bounce), tmp_path / "x.mp4")
    with av.open(str(tmp_path / "x.mp4")) as file:
        blocks = [(frame.time, frame.to_ndarray()[0]) for frame in file.decode(audio=0)]
    first = next(
        time + np.flatnonzero(np.abs(block) > 0.05)[0] / 22050
        for time, block in blocks
        if np.abs(block).max() > 0.05
    )
    expected = 1.0 + 0.5 / 3  # phase 0.25 is half a beat; the first half of a beat is the loud one
    assert first == pytest.approx(expected, abs=0.03)


def test_one_seed_gives_the_same_bytes_however_the_videos_are_dealt_to_shards(tmp_path):
    whole = render.render_shard(TINY, 0, 1, tmp_path / "whole", seed=2)
    split = [p for shard in range(3) for p in render.render_shard(TINY, shard, 3, tmp_path / "split", seed=2)]
    assert {p.name: p.read_bytes() for p in whole} == {p.name: p.read_bytes() for p in split}
    assert sorted(p.stem for p in whole) == sorted(plan(TINY, 2))
    other = render.render_shard(TINY, 0, 4, tmp_path / "other", seed=3)
    assert other[0].read_bytes() != (tmp_path / "whole" / other[0].name).read_bytes()


def test_rendering_goes_on_where_it_was_killed(tmp_path):
    paths = render.render_shard(TINY, 0, 1, tmp_path, seed=2)
    content = {path: path.read_bytes() for path in paths}
    missing, truncated, stale, kept = paths
    missing.unlink()
    truncated.write_bytes(content[truncated][:500])
    other_seed = replace(plan(TINY, 2)[stale.stem], seed=1)
    render.render_video(other_seed, stale)
    before = kept.stat().st_mtime_ns
    assert render.render_shard(TINY, 0, 1, tmp_path, seed=2) == paths
    assert {path: path.read_bytes() for path in paths} == content
    assert kept.stat().st_mtime_ns == before
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_a_video_that_fails_half_way_leaves_no_file(tmp_path, monkeypatch):
    def broken(scene):
        yield from list(draw_frames(scene))[:10]
        raise RuntimeError("power cut")

    draw_frames = draw.frames
    monkeypatch.setattr(draw, "frames", broken)
    with pytest.raises(RuntimeError, match="power cut"):
        render.render_video(scene(), tmp_path / "x.mp4")
    assert list(tmp_path.iterdir()) == []
