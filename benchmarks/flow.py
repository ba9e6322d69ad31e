"""How long TV-L1 flow takes, ours against OpenCV's, and how far they agree.

    python benchmarks/flow.py                                        # CPU, both on one core
    python benchmarks/flow.py --record build/flow.npz                # ... and keep what OpenCV did
    python benchmarks/flow.py --device cuda --against build/flow.npz

Pairs are consecutive frames of the three clips in $AVFUSION_SHARED/media, scaled to 340x256; without it, of a
texture that moves. On the CPU, ours and OpenCV's take turns on every pair; time is that of the thread on its
core, and the fastest of ``--repeat`` runs counts, as other work on the machine can only add. CUDA computes
the pairs as a batch, repeated up to ``--batch``, without transfers. OpenCV's TV-L1 may be missing beside a
GPU: ``--against`` names the file with the frames, flows and times that were recorded where it is.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from avfusion.ops import extension_status, tvl1_flow

WIDTH, HEIGHT = 340, 256
CLIPS = {"v_GGSY1Qvo990.mp4": (20, 100, 200, 280), "h264-silent-28fps.mp4": (20, 100, 150, 250)} | {
    "mpeg4-mp3-25fps.avi": (20, 60, 100, 140)
}
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Reference:
    """What OpenCV did: pairs (N, 2, H, W), flows (N, H, W, 2), seconds of each pair, and where."""

    pairs: Images
    flows: NDArray[np.float32]
    seconds: NDArray[np.float64]
    origin: str
    where: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeat", type=int, default=5, help="runs, of which the fastest counts")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write what OpenCV did (npz)")
    parser.add_argument("--against", type=Path, metavar="FILE", help="CUDA: what OpenCV did elsewhere")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64, 256], help="CUDA: pairs at once")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and arguments.against is None:
        parser.error("--device cuda needs --against FILE, which --record FILE writes on a CPU")
    torch.set_num_threads(1)
    print(f"{machine()}, torch {torch.__version__}, Python {platform.python_version()}, {extension_status()}")
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, pairs of {WIDTH}x{HEIGHT}")
    if arguments.device == "cuda":
        on_cuda(read(arguments.against), arguments.batch, arguments.repeat)
        return
    reference = on_cpu(arguments.repeat)
    if arguments.record is not None:
        arguments.record.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(arguments.record, **vars(reference))


def on_cpu(repeat: int) -> Reference:
    """Both on one core, in turns; prints a table with a row per pair."""
    import cv2

    library: Any = cv2
    cv2.setNumThreads(1)
    library.ocl.setUseOpenCL(False)
    calculator = library.optflow.DualTVL1OpticalFlow_create()
    pairs, names, origin = collect()
    print(f"OpenCV {cv2.__version__}, {origin}, one thread each, its CPU time, fastest of {repeat} runs")
    print(f"{'pair':>26} {'ours ms':>8} {'OpenCV ms':>10} {'faster':>7}  {AGREEMENT_HEAD}")
    own, its, flows, own_flows = [], [], [], []
    for name, (first, second) in zip(names, pairs, strict=True):
        given = torch.from_numpy(first)[None], torch.from_numpy(second)[None]
        times: list[tuple[float, float]] = []
        for _ in range(repeat):
            flow, mine = timed(lambda given=given: tvl1_flow(*given)[0].numpy())
            expected, theirs = timed(lambda a=first, b=second: calculator.calc(a, b, None))
            times.append((mine, theirs))
        fastest = np.array(times).min(0)
        own.append(fastest[0])
        its.append(fastest[1])
        flows.append(expected)
        own_flows.append(flow)
        print(row(name, *fastest, agreement(flow, expected)))
    middle = float(np.median(own)), float(np.median(its))
    print(row("median", *middle, agreement(np.stack(own_flows), np.stack(flows))))
    print(row("mean", float(np.mean(own)), float(np.mean(its)), ""))
    return Reference(pairs, np.stack(flows), np.array(its), origin, f"{machine()}, OpenCV {cv2.__version__}")


def on_cuda(reference: Reference, batches: list[int], repeat: int) -> None:
    """Batches of the recorded pairs; prints a table with a row per size of batch."""
    core = float(reference.seconds.mean())
    print(f"{torch.cuda.get_device_name()}; {reference.origin}, fastest of {repeat} runs")
    print(f"OpenCV: {core * 1e3:.0f} ms per pair on one core, recorded on {reference.where}")
    pairs = torch.from_numpy(reference.pairs)
    print(f"{'batch':>6} {'ms per pair':>12} {'of the core':>12}")
    for size in batches:
        repeated = pairs[torch.arange(size) % len(pairs)].cuda()
        seconds = []
        for _ in range(repeat + 1):  # the first to warm up
            torch.cuda.synchronize()
            begin = time.perf_counter()
            tvl1_flow(repeated[:, 0], repeated[:, 1])
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
        each = min(seconds[1:]) / size
        print(f"{size:6d} {each * 1e3:12.3f} {core / each:11.0f}x")
    flow = tvl1_flow(pairs[:, 0].cuda(), pairs[:, 1].cuda()).cpu().numpy()
    print(f"{'':>16} {AGREEMENT_HEAD}")
    print(f"{'with OpenCV':>16} {agreement(flow, reference.flows)}")
    print(f"{'with our CPU':>16} {agreement(flow, tvl1_flow(pairs[:, 0], pairs[:, 1]).numpy())}")


AGREEMENT_HEAD = f"{'mean px':>8} {'95% px':>8} {'max px':>7} {'<0.05 px':>9} {'8 bit +-1':>10}"


def agreement(flow: NDArray[np.float32], expected: NDArray[np.float32]) -> str:
    """End-point differences, and the share of values that differ by at most a step of the eight-bit form."""
    error = np.linalg.norm(flow - expected, axis=-1)
    steps = [np.rint((np.clip(f, -20, 20) + 20) * (255 / 40)) for f in (flow, expected)]
    near, equal = (error < 0.05).mean(), (np.abs(steps[0] - steps[1]) <= 1).mean()
    most = np.percentile(error, 95)
    return f"{error.mean():8.4f} {most:8.4f} {error.max():7.2f} {near:9.2%} {equal:10.2%}"


def row(name: str, own: float, its: float, agreement: str) -> str:
    return f"{name:>26} {own * 1e3:8.1f} {its * 1e3:10.1f} {its / own:6.1f}x  {agreement}"


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.thread_time()
    result = function()
    return result, time.thread_time() - begin


def collect() -> tuple[Images, list[str], str]:
    """Pairs (N, 2, H, W), their names, and where they are from."""
    folder = Path(os.environ.get("AVFUSION_SHARED", "")) / "media"
    if not os.environ.get("AVFUSION_SHARED") or not folder.is_dir():
        return moving_texture(), [f"texture {speed:g} px" for speed in SPEEDS], "a texture that moves"
    pairs, names = [], []
    for clip, starts in CLIPS.items():
        for start in starts:
            pairs.append(frames_of(folder / clip, start))
            names.append(f"{Path(clip).stem} {start}")
    return np.stack(pairs), names, f"{len(CLIPS)} clips"


def frames_of(path: Path, start: int) -> Images:
    """Two consecutive frames of a clip, grey."""
    import av
    import cv2

    with av.open(str(path)) as container:
        frames = [
            frame.to_ndarray(format="gray")
            for i, frame in enumerate(container.decode(video=0))
            if i in (start, start + 1)
        ]
    resized = [cv2.resize(f, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for f in frames]
    return np.stack(resized).astype(np.uint8)


SPEEDS = (0.5, 1.0, 2.0, 4.0)  # pixels per frame


def moving_texture() -> Images:
    """A blurred noise, and the same shifted right by some pixels."""
    import cv2

    noise = np.random.RandomState(0).standard_normal((HEIGHT, WIDTH)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    image = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)
    shifted = [
        cv2.warpAffine(image, np.array([[1, 0, s], [0, 1, 0]], np.float32), (WIDTH, HEIGHT), borderMode=1)
        for s in SPEEDS
    ]
    return np.stack([np.stack([image, other]) for other in shifted]).astype(np.uint8)


def read(path: Path) -> Reference:
    with np.load(path, allow_pickle=False) as file:
        return Reference(*(file[name] if file[name].ndim else str(file[name]) for name in NAMES))


NAMES = ("pairs", "flows", "seconds", "origin", "where")


def machine() -> str:
    """The model of the CPU, if Linux says so."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
