"""Log-mel, VGGish and its post-processor against AudioSet's code, torchvggish and tal-hmo's windows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_recipe import layout, load_recipe, recipe_input
from numpy.typing import NDArray

from avfusion.backbones.vggish import PcaParameters, VGGish
from avfusion.media.audio import read_audio, resample
from avfusion.media.log_mel import (
    FRAME,
    HOP,
    examples,
    log_mel,
    mel_matrix,
    published_examples,
    published_windows,
)

REAL = "v_GGSY1Qvo990"
CLIPS = ["chirp_16k_mono", "chirp_44k_stereo", "chirp_22k_mono", "chirp_8k_mono"]


@pytest.fixture(scope="module")
def stored(golden: Path) -> Iterator[Any]:
    with np.load(golden / "audio/vggish.npz", allow_pickle=False) as file:
        yield file


@pytest.fixture(scope="module")
def networks() -> dict[bool, VGGish]:
    """The network with its last ReLU, and the same without it."""
    whole = load_recipe(VGGish()).eval()
    bare = VGGish(width=1 / 64, final_relu=False)
    bare.features, bare.embeddings = whole.features, whole.embeddings[:-1]
    return {True: whole, False: bare}


def close(actual: NDArray[Any] | torch.Tensor, expected: NDArray[Any]) -> None:
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    assert (np.abs(actual - expected) <= 1e-5 * np.abs(expected).max() + 1e-5 * np.abs(expected)).all()


def test_mel_matrix(stored: Any) -> None:
    np.testing.assert_allclose(mel_matrix(), stored["mel_matrix_64x257_T"].T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("clip", CLIPS)
def test_log_mel_and_examples(stored: Any, clip: str) -> None:
    spectrogram = log_mel(stored[f"{clip}/waveform_16k"])
    np.testing.assert_allclose(spectrogram, stored[f"{clip}/log_mel"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(examples(spectrogram), stored[f"{clip}/examples"], rtol=0, atol=1e-4)


def test_layout(golden: Path, networks: dict[bool, VGGish]) -> None:
    expected = {n: s for n, s in layout(golden, "torchvggish").items() if not n.startswith("pproc.")}
    assert {name: tuple(value.shape) for name, value in networks[True].state_dict().items()} == expected


@pytest.mark.parametrize("relu", [True, False])
def test_network(stored: Any, networks: dict[bool, VGGish], relu: bool) -> None:
    what = "embedding" if relu else "embedding_before_last_relu"
    with torch.inference_mode():
        recipe = torch.from_numpy(recipe_input("in:vggish/examples", (3, 1, 96, 64)))
        close(networks[relu](recipe), stored[f"recipe/{what}"])
        batches = [stored[f"{clip}/examples"] for clip in [*CLIPS, "v_GGSY1Qvo990"]]
        values = networks[relu](torch.from_numpy(np.concatenate(batches).astype(np.float32))).numpy()
    ends = np.cumsum([len(batch) for batch in batches])[:-1]
    for clip, part in zip([*CLIPS, "v_GGSY1Qvo990"], np.split(values, ends), strict=True):
        close(part, stored[f"{clip}/{what}"])


def test_pca(golden: Path, stored: Any) -> None:
    pca = PcaParameters.read(golden / "audio/vggish_pca_params.npz")
    close(pca.project(stored["pca/input"]), stored["pca/projected"])
    for rounding, name in (("nearest", "quantised_torch"), ("down", "quantised_numpy")):
        cases = [("pca/input", f"pca/{name}")]
        cases += [(f"{clip}/embedding", f"{clip}/{name}") for clip in [*CLIPS, "v_GGSY1Qvo990"]]
        for source, result in cases:
            values = pca.quantise(stored[source], rounding).astype(int)
            assert np.abs(values - stored[result]).max() <= 1
            assert (values == stored[result]).mean() > 0.999  # +-1 is for ties, not for the other rounding


def test_windows_of_tal_hmo(golden: Path) -> None:
    cases = json.loads((golden / "audio/vggish.json").read_text())["tal_hmo_windows"]
    for case in cases:
        windows = published_windows(case["samples"], case["frames"])
        assert windows.tolist() == [row[:2] for row in case["windows_start_end_padded"]]


@pytest.mark.parametrize("frames", [4, 7])
def test_snippets_of_tal_hmo(stored: Any, networks: dict[bool, VGGish], frames: int) -> None:
    inputs = published_examples(stored["chirp_16k_mono/waveform_16k"], frames)
    with torch.inference_mode():
        close(networks[False](torch.from_numpy(inputs)), stored[f"tal_hmo/chirp_16k_mono/frames{frames}"])


def test_log_mel_of_a_real_clip(stored: Any) -> None:
    spectrogram = log_mel(stored[f"{REAL}/waveform_16k[:8000]"])
    np.testing.assert_allclose(spectrogram, stored[f"{REAL}/examples"][0][:48], rtol=0, atol=1e-4)


def test_log_mel_of_a_sound_track(golden: Path, stored: Any) -> None:
    """The whole front end, from the 16-bit WAV file that ffmpeg 5.1 made of the clip."""
    waveform = resample(read_audio(golden / f"audio/{REAL}.wav"))
    np.testing.assert_allclose(
        examples(log_mel(waveform.samples)), stored[f"{REAL}/examples"], rtol=0, atol=1e-4
    )


def test_log_mel_of_the_clip_itself(shared: Path, golden: Path, stored: Any) -> None:
    """Decoded from the MP4 file and resampled here, against the examples made from its sound track.

    The AAC decoder of PyAV 18.1 (libavcodec 62) rounds otherwise than FFmpeg 5.1's: in one sample of 5,000,
    which lies between two 16-bit values, another one is chosen (see test_media). Frames that see no such
    sample are as close as those of the WAV file; in the others it shows in bands that are nearly silent, of
    log(x + 0.01).
    """
    clip, track = read_audio(shared / f"media/{REAL}.mp4"), read_audio(golden / f"audio/{REAL}.wav")
    found = examples(log_mel(resample(clip).samples))
    expected = stored[f"{REAL}/examples"]
    assert found.shape == expected.shape == (18, 96, 64)
    differences = np.abs(found - expected).reshape(-1, 64).max(axis=1)
    other = np.flatnonzero(clip.samples != track.samples) * 16000 / clip.rate
    begins = np.arange(len(differences)) * HOP
    reach = 66  # samples at 16 kHz that the resampling filter is wide on either side
    seen = [((other > begin - reach) & (other < begin + FRAME + reach)).any() for begin in begins]
    assert np.mean(seen) < 0.5
    assert differences[~np.array(seen)].max() <= 1e-4
    assert differences.max() <= 5e-4
