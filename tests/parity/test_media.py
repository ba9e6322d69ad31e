"""Sound and flow against the golden data, and the three real clips."""

from pathlib import Path

import av
import numpy as np
import pytest

from avfusion.media.audio import read_audio, resample
from avfusion.media.decode import read_frames
from avfusion.media.flow import optical_flow
from avfusion.media.probe import probe

CLIP = "v_GGSY1Qvo990"


@pytest.mark.parametrize(
    "name", ["chirp_16k_mono", "chirp_44k_stereo", "chirp_22k_mono", "chirp_8k_mono", CLIP]
)
def test_waveform_of_the_published_front_end(golden: Path, name: str) -> None:
    waveform = resample(read_audio(golden / "audio" / f"{name}.wav"))
    with np.load(golden / "audio/vggish.npz", allow_pickle=False) as stored:
        key = f"{name}/waveform_16k"
        expected = stored[key] if key in stored else stored[f"{key}[:8000]"]
        exact = key in stored
    assert waveform.rate == 16000
    assert len(waveform.samples) == (len(expected) if exact else 290528)
    assert np.abs(waveform.samples[: len(expected)] - expected).max() <= 1e-5


def test_clip_gives_the_samples_of_its_sound_track(shared: Path, golden: Path) -> None:
    clip = read_audio(shared / f"media/{CLIP}.mp4")
    track = read_audio(golden / f"audio/{CLIP}.wav")
    assert clip.rate == track.rate
    assert len(clip.samples) == len(track.samples)
    assert np.abs(clip.samples - track.samples).max() <= 1.0001 / 32768
    # Rounded to 16 bits as ffmpeg rounds. What changed is its AAC decoder, by 0.004 of a step, between 5.1,
    # which gives the WAV file to the bit, and libavcodec 62: that decides where a value lies half-way.
    with av.open(str(shared / f"media/{CLIP}.mp4")) as container:
        steps = 32768 * np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    other = clip.samples != track.samples
    assert other.mean() < 1e-3
    assert np.abs(np.abs(steps - np.trunc(steps)) - 0.5)[other].max(initial=0) <= 0.005


def test_tvl1_is_opencvs(golden: Path) -> None:
    with np.load(golden / "ops/flow_tvl1.npz", allow_pickle=False) as stored:
        for pair in range(3):
            flow = optical_flow(stored[f"in.prev_{pair}"], stored[f"in.next_{pair}"], "tvl1")
            difference = np.abs(flow - stored[f"out.flow_{pair}"])[8:-8, 8:-8]
            assert difference.mean() <= 0.05
            assert np.quantile(difference, 0.95) <= 0.2


@pytest.mark.parametrize(
    ("name", "frames", "fps", "size", "seconds", "rate"),
    [
        ("v_GGSY1Qvo990.mp4", 355, 19.62, (320, 240), 18.16, 44100),
        ("mpeg4-mp3-25fps.avi", 164, 25.0, (320, 240), 6.56, 44100),
        ("h264-silent-28fps.mp4", 280, 28.0, (340, 256), 10.0, 0),
    ],
)
def test_real_clips(
    shared: Path, name: str, frames: int, fps: float, size: tuple[int, int], seconds: float, rate: int
) -> None:
    info = probe(shared / "media" / name)
    assert (info.frames, (info.width, info.height), info.sample_rate) == (frames, size, rate)
    assert info.fps == pytest.approx(fps)
    assert info.duration == pytest.approx(seconds, abs=0.01)
    times = [time for time, _ in read_frames(shared / "media" / name, short_side=64)]
    assert times == pytest.approx(np.arange(frames) / fps, abs=1e-4)
