"""Memory does not grow with the length of a video: three hours stay under two GiB."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, resource, sys
from pathlib import Path
import av
import numpy as np

path, seconds = Path(sys.argv[1]), float(sys.argv[2])
with av.open(str(path), "w") as out:
    video = out.add_stream("mpeg4", rate=25)
    video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
    audio = out.add_stream("aac", rate=16000, layout="mono")
    frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
    for i in range(round(seconds * 25)):
        frame.pts = i
        out.mux(video.encode(frame))
    out.mux(video.encode(None))
    block = av.AudioFrame.from_ndarray(np.full((1, 16000), 0.1, np.float32), format="fltp", layout="mono")
    block.sample_rate = 16000
    for i in range(round(seconds)):
        block.pts = i * 16000
        out.mux(audio.encode(block))
    out.mux(audio.encode(None))

from avfusion.backbones.extract import Backbone, StreamConfig, extract_shard
from avfusion.backbones.weights import BackboneConfig, load_backbone
from avfusion.data.features import FeatureStore
from avfusion.data.manifest import ManifestRow
from avfusion.media.snippets import AudioGeometry, SnippetGeometry

frames = SnippetGeometry(window=64, stride=8, size=int(sys.argv[3]))
streams = [
    StreamConfig("rgb", BackboneConfig("i3d", width=0.02, endpoint="MaxPool3d_3a_3x3"), frames),
    StreamConfig("audio", BackboneConfig("vggish", width=0.02), AudioGeometry(follow=frames)),
]
backbones = {c.name: Backbone(*load_backbone(c.name, "random:0", c.backbone)) for c in streams}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
extract_shard([ManifestRow("v", "", str(path))], streams, backbones, path.with_suffix(".h5"))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
counts = {c.name: len(FeatureStore([path.with_suffix(".h5")], c.name)["v"].values) for c in streams}
print(json.dumps({"before": before, "after": after, "counts": counts}))
"""


def peak(folder: Path, seconds: float, size: int) -> dict:
    """Peak of the resident memory in MiB, and the snippets, of a thin network on frames of `size` pixels."""
    command = [sys.executable, "-c", SCRIPT, str(folder / f"{seconds}.mp4"), str(seconds), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_five_times_the_length_takes_the_same_memory(tmp_path: Path) -> None:
    short, long = peak(tmp_path, 40, 224), peak(tmp_path, 200, 224)
    assert long["counts"]["rgb"] == (200 * 25 - 64) // 8 + 1
    assert long["after"] - short["after"] < 60  # MiB
    assert long["after"] < 2048


@pytest.mark.slow
def test_three_hours_stay_under_two_gibibytes(tmp_path: Path) -> None:
    found = peak(tmp_path, 3 * 3600, 32)
    assert found["counts"]["rgb"] == (3 * 3600 * 25 - 64) // 8 + 1
    assert found["after"] < 2048
