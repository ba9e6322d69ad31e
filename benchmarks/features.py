"""How fast features are extracted, beside the plain way.

    python benchmarks/features.py                    # CPU, two threads: pictures, sound, reading
    python benchmarks/features.py --device cuda --flow tvl1 --copies 64 --clips 256 --batch 64 --workers 14 \
        --threads 8 --compile                        # clips/s of I3D by precision; end to end from video
    python benchmarks/features.py --device cuda --flow tvl1 --copies 64 --batch 64 --workers 14 \
        --threads 8 --only end-to-end                # the latter alone: under a minute
    AVFUSION_SHARED is to be set, and the operators built with CUDA (python setup.py build_ext --inplace).

The plain way of the CPU table decodes a video to frames, all of them, and then runs one snippet at a time
through the network; of the CUDA table, a loop over snippets in eager float32, batch 1 (with and without TF32
convolutions, which torch switches on by itself). Both use the same weights (random; speed does not depend on
them), in the same run, and the features are compared: their largest difference, relative to the largest
value.

End to end, `--copies` videos go through extraction as a shard does, after a shard of two of them, so that
libraries are loaded and algorithms chosen; starting the processes that read counts. The lines below the speed
say where the time went: of the networks and of flow by the GPU's clock; how long the process that feeds it
waited for pieces, and for the GPU; and what the readers did, summed over all of them ("handing over" is
copying, and waiting until a piece is taken).

Videos are the shared clips where $AVFUSION_SHARED is, else one that is rendered here.
"""

import argparse
import os
import platform
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch

from avfusion.backbones.extract import Backbone, Meter, Running, StreamConfig, extract_shard
from avfusion.backbones.i3d import I3D
from avfusion.backbones.network import Network, visual_input
from avfusion.backbones.packing import Part
from avfusion.backbones.weights import BackboneConfig, load_backbone
from avfusion.data.features import FeatureStore
from avfusion.data.manifest import ManifestRow
from avfusion.media.clips import VisualSource
from avfusion.media.decode import read_frames
from avfusion.media.probe import probe
from avfusion.media.read_ahead import read_ahead
from avfusion.media.reader_process import ReaderProcesses
from avfusion.media.reading import Job, Piece, SoundSource, read_video
from avfusion.media.snippets import AudioGeometry, Run, SnippetGeometry

FRAMES = SnippetGeometry(64, 8, size=224, short_side=256)


class Timed(NamedTuple):
    """What some work gave, how long it took, and how many cores it had meanwhile."""

    values: np.ndarray
    seconds: float
    cores: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of torch, for both ways (CPU)")
    parser.add_argument("--seconds", type=float, default=10, help="of video for the CPU table")
    parser.add_argument("--clips", type=int, default=256, help="snippets for the CUDA table")
    parser.add_argument("--batch", type=int, default=32, help="snippets per call (CUDA)")
    parser.add_argument("--copies", type=int, default=16, help="videos of the end-to-end row (CUDA)")
    parser.add_argument("--workers", type=int, default=0, help="videos decoded at a time (0: automatic)")
    parser.add_argument(
        "--flow", choices=["tvl1", "dis", "none"], default="dis", help="of the end-to-end row"
    )
    parser.add_argument("--compile", action="store_true", help="a row with torch.compile")
    parser.add_argument("--only", choices=["clips", "end-to-end", "all"], default="all", help="part (CUDA)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    versions = f"torch {torch.__version__}, av {av.__version__}, Python {platform.python_version()}"
    machine = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} threads of the CPU"
    print(f"{machine}; {versions}")
    with tempfile.TemporaryDirectory() as folder:
        (on_cuda if args.device == "cuda" else on_cpu)(args, Path(folder))


def on_cpu(args: argparse.Namespace, folder: Path) -> None:
    video = rendered(folder / "video.mp4", args.seconds)
    config = StreamConfig("rgb", BackboneConfig("i3d"), FRAMES)
    backbone = Backbone(*load_backbone("rgb", "random:0", config.backbone))
    plain = timed(lambda: plain_pictures(video, backbone.module))
    table(args.seconds, plain, timed(lambda: extracted(video, config, backbone, folder)))

    long = rendered(folder / "long.mp4", 240, pictures=False)
    config = StreamConfig("audio", BackboneConfig("vggish"), AudioGeometry(), batch_size=64)  # the default
    backbone = Backbone(*load_backbone("audio", "random:0", config.backbone))
    features, seconds, cores = timed(lambda: extracted(long, config, backbone, folder))
    print(f"sound: {240 / seconds:.1f}x real time ({len(features)} snippets of 0.96 s, from AAC at 44.1 kHz)")
    print(f"  {cores:.2f} cores were busy")

    path = (shared_clips() or [video])[0]
    print(f"reading rgb, grey and sound of {path.name}, in times of real time:")
    for what, processes in (("threads", False), ("processes", True)):
        speeds = ", ".join(f"{count}: {read(path, processes, count):.0f}x" for count in (1, 2, 4))
        print(f"  {what + ',':10} {speeds}")


def plain_pictures(video: Path, network: Any) -> np.ndarray:
    """All frames first, then one snippet at a time."""
    frames = [image for _, image in read_frames(video, short_side=256, size=224)]
    with torch.inference_mode():
        starts = range(0, len(frames) - FRAMES.window + 1, FRAMES.stride)
        clips = (np.stack(frames[start : start + FRAMES.window])[None] for start in starts)
        return np.concatenate([network.extract_features(visual_input(clip)).numpy() for clip in clips])


def read(path: Path, processes: bool, workers: int, videos: int = 12) -> float:
    """Seconds of media read per second, without any network, once processes have started."""
    visual = {name: VisualSource(FRAMES, run=64, grey=name == "flow") for name in ("rgb", "flow")}
    job = Job(path, visual, {"audio": SoundSource(AudioGeometry(follow=FRAMES), 64)})
    pool = ReaderProcesses()
    chosen = pool.read if processes else read_video

    def pieces() -> Iterator[int]:
        for item in chosen(job):
            if isinstance(item, Piece):
                yield len(item.run.stacked())

    def all_of(count: int) -> np.ndarray:
        return np.array(list(read_ahead([pieces] * count, workers)))

    try:
        all_of(workers)
        seconds = timed(lambda: all_of(videos)).seconds
    finally:
        pool.close()
    return videos * probe(path).duration / seconds


def extracted(video: Path, config: StreamConfig, backbone: Backbone, folder: Path) -> np.ndarray:
    out = folder / "features.h5"
    extract_shard([ManifestRow("video", "", str(video))], [config], {config.name: backbone}, out)
    return FeatureStore([out], config.name)["video"].values


def on_cuda(args: argparse.Namespace, folder: Path) -> None:
    if args.only != "end-to-end":
        clip_rates(args)
    if args.only != "clips":
        end_to_end(args, folder)


def clip_rates(args: argparse.Namespace) -> None:
    """Clips per second of I3D, frames given, by precision."""
    count = args.clips // args.batch * args.batch
    random = np.random.RandomState(0)
    length = FRAMES.window + (args.batch - 1) * FRAMES.stride
    run = random.randint(0, 256, (length, 224, 224, 3)).astype(np.uint8)
    network = load_backbone("rgb", "random:0", BackboneConfig("i3d"))[0].cuda().eval()
    assert isinstance(network, I3D)
    rows: dict[str, tuple[float, np.ndarray]] = {}
    for tf32 in (False, True):
        name = f"plain loop, batch 1, eager float32, TF32 {'on' if tf32 else 'off'}"
        rows[name] = plain_clips(network, run, min(count, 64), tf32)
    choices: list[tuple[str, Any, bool]] = [("float32", "float32", False), ("TF32", "tf32", False)]
    choices += [("bfloat16", "bfloat16", False)]
    choices += [("bfloat16, compiled", "bfloat16", True)] if args.compile else []
    for name, precision, compiled in choices:
        fast = Network(network, FRAMES, "cuda", precision, args.batch, compiled)
        rows[f"extraction, {name}"] = our_clips(fast, run, count, args.batch)
    first = next(iter(rows.values()))
    print(f"I3D RGB, 64x224x224 every 8 frames, batches of {args.batch}:")
    print(f"{'':58}{'clips/s':>9}{'gain':>8}{'difference':>12}")
    for name, (rate, values) in rows.items():
        compared = min(len(values), len(first[1]))
        difference = np.abs(values[:compared] - first[1][:compared]).max() / np.abs(first[1]).max()
        print(f"{name:58}{rate:9.1f}{rate / first[0]:7.1f}x{difference:12.1e}")


def plain_clips(network: I3D, run: np.ndarray, count: int, tf32: bool) -> tuple[float, np.ndarray]:
    per_run = (len(run) - FRAMES.window) // FRAMES.stride + 1
    clips = [run[i * FRAMES.stride :][: FRAMES.window] for i in range(per_run)]

    def loop(number: int) -> np.ndarray:
        values = [
            network.extract_features(visual_input(clips[i % per_run][None], "cuda")).cpu().numpy()
            for i in range(number)
        ]
        return np.concatenate(values)

    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
        loop(4)
        values, seconds, _ = timed(lambda: loop(count))
    return count / seconds, values


def our_clips(network: Network, run: np.ndarray, count: int, batch: int) -> tuple[float, np.ndarray]:
    def loop(number: int) -> np.ndarray:
        values = [network([Part(network.piece(Run(run, batch)), 0, batch)])[0] for _ in range(number)]
        network.drain()
        return torch.cat(values).numpy()

    loop(2)
    values, seconds, _ = timed(lambda: loop(count // batch))
    return count / seconds, values


def end_to_end(args: argparse.Namespace, folder: Path) -> None:
    videos = shared_clips() or [rendered(folder / "video.mp4", 60)]
    paths = [videos[i % len(videos)] for i in range(args.copies)]
    visual = ["rgb"] if args.flow == "none" else ["rgb", "flow"]
    streams = [
        StreamConfig(name, BackboneConfig("i3d"), FRAMES, args.flow if name == "flow" else None, args.batch)
        for name in visual
    ]
    streams.append(StreamConfig("audio", BackboneConfig("vggish"), AudioGeometry(follow=FRAMES)))
    backbones = {c.name: Backbone(*load_backbone(c.name, "random:0", c.backbone)) for c in streams}
    rows = []
    for index, path in enumerate(paths):
        info = probe(path)
        rows.append(
            ManifestRow(str(index), "", str(path), info.duration, info.fps, info.frames, info.has_audio)
        )
    for compiled in [False, True] if args.compile else [False]:
        running = Running("cuda", workers=args.workers, compiled=compiled)
        extract_shard(rows[:2], streams, backbones, folder / "warm.h5", running)
        meter = Meter()
        extract_shard(rows, streams, backbones, folder / "all.h5", running, meter)
        name = ", ".join([*visual, "audio", f"flow {args.flow}", f"{running.readers} readers"])
        print(f"end to end ({name}{', compiled' if compiled else ''}): {meter}")
        print(textwrap.indent(meter.details(), "  "))


def shared_clips() -> list[Path]:
    shared = os.environ.get("AVFUSION_SHARED")
    return [Path(shared, "media/v_GGSY1Qvo990.mp4")] if shared else []


def rendered(path: Path, seconds: float, pictures: bool = True) -> Path:
    """A video of moving noise at 340x256 and 25 frames/s, with sound at 44.1 kHz."""
    random = np.random.RandomState(0)
    texture = random.randint(0, 256, (512, 680, 3)).astype(np.uint8)
    with av.open(str(path), "w") as out:
        video: Any = out.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        video.width, video.height, video.pix_fmt = 340, 256, "yuv420p"
        audio: Any = out.add_stream("aac", rate=44100, layout="mono")
        for i in range(round(seconds * 25) if pictures else 1):
            image = np.ascontiguousarray(texture[i % 256 :][:256, i % 340 :][:, :340])
            out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(video.encode(None))
        samples = (0.3 * random.standard_normal(round(seconds * 44100))).astype(np.float32)
        for begin in range(0, len(samples), 1024):
            block = av.AudioFrame.from_ndarray(
                samples[None, begin : begin + 1024], format="fltp", layout="mono"
            )
            block.sample_rate, block.pts = 44100, begin
            out.mux(audio.encode(block))
        out.mux(audio.encode(None))
    return path


def table(media: float, plain: Timed, ours: Timed) -> None:
    difference = np.abs(plain.values - ours.values).max() / np.abs(plain.values).max()
    print(f"pictures: {len(ours.values)} snippets of {media:g} s of video")
    for what, found in (("frames first, one snippet at a time:", plain), ("extraction:", ours)):
        speed, cores = media / found.seconds, found.cores
        print(f"  {what:36} {found.seconds:8.2f} s ({speed:.3f}x real time, {cores:.2f} cores were busy)")
    gain = plain.seconds / ours.seconds
    print(f"  {gain:.2f} times as fast; features differ by {difference:.1e} of the largest")


def timed(work: Callable[[], np.ndarray]) -> Timed:
    started, cpu = time.perf_counter(), time.process_time()
    result = work()
    seconds = time.perf_counter() - started
    return Timed(result, seconds, (time.process_time() - cpu) / seconds)


if __name__ == "__main__":
    main()
