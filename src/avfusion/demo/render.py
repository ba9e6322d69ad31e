"""From a scene to an MP4 file (H.264 and AAC), and a shard of a dataset to a folder of them."""

import hashlib
import logging
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np

from avfusion.demo import draw, sound
from avfusion.demo.config import DemoConfig
from avfusion.demo.scenes import Scene, plan
from avfusion.files import atomic_path
from avfusion.progress import track

logger = logging.getLogger("avfusion")
SOUND_BLOCK = 1024  # samples per AAC frame
# Macroblock-tree rate control makes the bytes of small pictures (64x48) differ from run to run, and code
# chosen by the processor makes them differ between machines; so both are off.
X264: dict[str, str] = {
    "preset": "veryfast",
    "crf": "23",
    "g": "50",
    "x264-params": "mbtree=0:cpu-independent=1",
}


def render_video(scene: Scene, path: str | Path) -> None:
    """Render one video to `path` (an MP4), which appears when it is complete.

    The same scene gives the same bytes: one encoder thread, and no dates or random ids in the file. Its
    comment says that it is synthetic, and carries the scene's fingerprint.
    """
    bitexact = {"fflags": "+bitexact"}
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4", options=bitexact) as out:
        out.metadata["comment"] = _comment(scene)
        _encode(scene, out)


def is_rendered(scene: Scene, path: str | Path) -> bool:
    """Whether `path` is the complete video of this very scene, made by this version of the code."""
    try:
        with av.open(str(path)) as file:
            return file.metadata.get("comment") == _comment(scene)
    except (OSError, av.FFmpegError):
        return False


def render_shard(
    config: DemoConfig, shard: int, shards: int, out_dir: str | Path, seed: int, subset: str | None = None
) -> list[Path]:
    """Render every `shards`-th video of the dataset, beginning with number `shard`, to ``out_dir/ID.mp4``.

    Videos that are there already, complete and right, stay; so a killed job goes on where it was.

    Returns:
        The paths of the shard's videos.
    """
    scenes = [s for s in plan(config, seed).values() if subset in (None, s.subset)][shard::shards]
    paths = []
    for scene in track(scenes, f"rendering shard {shard + 1} of {shards}", unit="video"):
        path = Path(out_dir) / f"{scene.id}.mp4"
        if is_rendered(scene, path):
            logger.info("%s is there already", path)
        else:
            render_video(scene, path)
        paths.append(path)
    return paths


def _encode(scene: Scene, out: av.container.OutputContainer) -> None:
    video = out.add_stream("libx264", rate=scene.fps)
    video.width, video.height, video.pix_fmt = scene.width, scene.height, "yuv420p"
    video.time_base = 1 / scene.fps
    video.codec_context.thread_count = 1
    video.options = {**X264}
    audio = out.add_stream("aac", rate=scene.sample_rate, layout="stereo" if scene.channels == 2 else "mono")
    audio.bit_rate = 96_000
    audio.options = {"aac_coder": "fast"}
    audio.codec_context.thread_count = 1
    samples, heard = sound.samples(scene), 0
    for index, picture in enumerate(draw.frames(scene)):
        planes = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420)  # far faster than converting the frame
        frame = av.VideoFrame.from_ndarray(planes.astype(np.uint8, copy=False), format="yuv420p")
        frame.pts, frame.time_base = index, 1 / scene.fps
        out.mux(video.encode(frame))
        # Sound follows the picture, so that the two are interleaved in the file as in any other video.
        while heard < min(samples.shape[1], (index + 1) / scene.fps * scene.sample_rate):
            out.mux(audio.encode(_sound_frame(samples[:, heard : heard + SOUND_BLOCK], heard, scene)))
            heard += SOUND_BLOCK
    out.mux(video.encode(None))
    out.mux(audio.encode(None))


def _sound_frame(block: sound.Samples, first: int, scene: Scene) -> av.AudioFrame:
    layout = "stereo" if scene.channels == 2 else "mono"
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=layout)
    frame.sample_rate, frame.pts = scene.sample_rate, first
    frame.time_base = Fraction(1, scene.sample_rate)
    return frame


def _comment(scene: Scene) -> str:
    return f"synthetic: rendered by avfusion.demo, scene {scene.fingerprint()}, code {_code()}"


@cache
def _code() -> str:
    """A hash of the modules that decide what a scene looks and sounds like."""
    digest = hashlib.sha256()
    for module in ("draw.py", "sound.py", "render.py"):
        digest.update(Path(__file__).with_name(module).read_bytes())
    return digest.hexdigest()[:8]
