"""``avfusion extract``: features of videos."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from avfusion.errors import AvfusionError, InputError

if TYPE_CHECKING:
    from avfusion.backbones.extract import Backbone, StreamConfig
    from avfusion.data.manifest import ManifestRow

STREAMS = ("rgb", "flow", "audio")
BATCH = (16, 64)  # snippets: of what is seen, of what is heard
DESCRIPTION = """\
Extract features from videos: RGB and optical flow through I3D, sound through VGGish. The result is an HDF5
file with one group per stream and in it one dataset (snippets, channels) per video, with the seconds at which
its snippets lie (attributes first, stride, window). A video that cannot be used, or has no sound, is absent
with a reason. The defaults are the published geometry: 64 frames every 8 at the video's own rate, the middle
224 pixels of a shorter side of 256; sound in snippets of 0.96 s."""
EPILOG = """\
weights:
  random:SEED                    seeded random weights, for trying things out: the features mean little
  rgb=FILE,flow=FILE,audio=FILE  a file per stream; FILE may also be random:SEED
  `avfusion doctor` says which files fit and where they come from.

flow:
  tvl1 is the published flow; tvl1_opencv the same by OpenCV, many times slower, to compare with; dis is a
  quick one, but not what published weights were trained with. Without --flow: tvl1 with a file of weights,
  dis with random ones. The file names the flow it was made with.

examples:
  avfusion extract clip.mp4 --streams rgb,flow,audio --weights random:0 --out clip.h5
  avfusion extract videos/*.mp4 --weights rgb=rgb_imagenet.pt,flow=flow_imagenet.pt,audio=vggish.pth \\
      --audio-grid rgb --out features.h5
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "extract",
        help="features of videos, e.g. avfusion extract clip.mp4 --weights random:0 --out clip.h5",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("videos", nargs="+", type=Path, metavar="VIDEO", help="media file; its name without suffix is the id")
    add("--out", type=Path, required=True, metavar="FILE.h5", help="HDF5 file to write")
    add(
        "--streams",
        type=parse_streams,
        default=STREAMS,
        metavar="LIST",
        help="of rgb,flow,audio (default: all)",
    )
    add("--weights", metavar="WEIGHTS", help="random:SEED, or STREAM=FILE,... (see below)")
    add("--flow", choices=("tvl1", "tvl1_opencv", "dis"), help="optical flow (see below)")
    add("--fps", type=float, help="frames per second to sample at (default: the video's own)")
    add(
        "--geometry",
        choices=("64/8", "16/4", "16/8"),
        default="64/8",
        help="published window/stride in frames (default: %(default)s, of P-GCN and MUSES)",
    )
    add("--window", type=int, help="frames that a snippet sees (default: that of --geometry)")
    add("--stride", type=int, help="frames from one snippet to the next (default: that of --geometry)")
    add("--size", type=int, default=224, help="pixels of the square the network sees (default: %(default)s)")
    add("--short-side", type=int, help="pixels of the shorter side before cropping (default: 8/7 of --size)")
    add(
        "--audio-grid",
        choices=("own", "rgb", "flow"),
        default="own",
        help="sound in snippets of 0.96 s one after the other, or around the centres of a visual stream",
    )
    add(
        "--audio-scheme",
        choices=("centred", "tal-hmo"),
        default="centred",
        help="sound that follows a visual stream: around its centres, or 1.2 s as tal-hmo counts",
    )
    add("--pca", type=Path, metavar="FILE", help="vggish_pca_params.npz: post-process the sound to 8 bits")
    add(
        "--crops",
        choices=("centre", "ten"),
        default="centre",
        help="the middle of a frame, or the mean of ten crops",
    )
    add("--batch-size", type=int, help="snippets per network call (default: {}, of sound {})".format(*BATCH))
    add(
        "--precision",
        choices=("auto", "float32", "tf32", "bfloat16"),
        default="auto",
        help="of I3D (default: auto, bfloat16 on CUDA and float32 on the CPU)",
    )
    add("--compile", action="store_true", help="use torch.compile on CUDA (slow to start)")
    add(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where networks run (default: auto)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Extract, and say what there is and what is missing.

    Raises:
        AvfusionError: no video gave anything.
    """
    from avfusion.backbones.extract import Running, extract_shard
    from avfusion.backbones.from_config import ready_backbone
    from avfusion.engine.device import choose_device

    videos = _by_id(args.videos)
    weights = parse_weights(args.weights, args.streams)
    streams = _stream_configs(args, weights)
    running = Running(str(choose_device(args.device)), precision=args.precision, compiled=args.compile)
    backbones = {c.name: ready_backbone(c, weights[c.name], running.device) for c in streams}
    for config in streams:
        print(_described(config, backbones[config.name]))
    rows = [_row(name, path) for name, path in videos.items()]
    absent = extract_shard(rows, streams, backbones, args.out, running)
    print("\n".join(_summary(args.out, rows, args.streams, absent)))
    if all(len(absent.get(row.id, ())) == len(streams) for row in rows):
        raise AvfusionError("no video could be used; the reasons stand above")
    return 0


def parse_streams(text: str) -> tuple[str, ...]:
    """Names of streams from a comma-separated list, in the order in which they are always given.

    Raises:
        argparse.ArgumentTypeError: an unknown name, or none.
    """
    names = {name.strip() for name in text.split(",")}
    if not names <= set(STREAMS):
        raise argparse.ArgumentTypeError(f"'{text}' should be a list of {', '.join(STREAMS)}")
    return tuple(name for name in STREAMS if name in names)


def parse_weights(text: str | None, streams: Sequence[str]) -> dict[str, str | None]:
    """Weights of every stream from ``random:SEED`` or ``rgb=FILE,...``; None where nothing was said.

    Raises:
        InputError: neither of both, or weights for a stream that is not extracted.
    """
    if text is None or (text.startswith("random:") and "=" not in text):
        return dict.fromkeys(streams, text)
    weights: dict[str, str | None] = dict.fromkeys(streams)
    for part in text.split(","):
        name, _, spec = part.partition("=")
        if not spec or name not in STREAMS:
            raise InputError("--weights", f"must be random:SEED or like rgb=FILE,audio=FILE, not '{text}'")
        if name not in streams:
            raise InputError("--weights", f"names the stream '{name}', which --streams leaves out")
        weights[name] = spec
    return weights


def _stream_configs(args: argparse.Namespace, weights: Mapping[str, str | None]) -> "list[StreamConfig]":
    from avfusion.backbones.extract import StreamConfig
    from avfusion.backbones.vggish import PostProcessing
    from avfusion.backbones.weights import BackboneConfig
    from avfusion.media.snippets import (
        PRESETS,
        TAL_HMO_WINDOW,
        VGGISH_EXAMPLE,
        AudioGeometry,
        SnippetGeometry,
    )

    side = round(args.size * 8 / 7) if args.short_side is None else args.short_side
    window, stride = PRESETS[args.geometry]
    window = window if args.window is None else args.window
    stride = stride if args.stride is None else args.stride
    frames = SnippetGeometry(window, stride, args.fps, args.size, side, args.crops)
    heard = TAL_HMO_WINDOW if args.audio_scheme == "tal-hmo" else VGGISH_EXAMPLE
    sound = AudioGeometry(
        heard, follow=None if args.audio_grid == "own" else frames, scheme=args.audio_scheme
    )
    return [
        StreamConfig(
            name=name,
            backbone=BackboneConfig("vggish" if name == "audio" else "i3d"),
            geometry=sound if name == "audio" else frames,
            flow=_flow_method(args.flow, weights[name]) if name == "flow" else None,
            batch_size=BATCH[name == "audio"] if args.batch_size is None else args.batch_size,
            post=PostProcessing.read(args.pca) if args.pca and name == "audio" else None,
        )
        for name in args.streams
    ]


def _flow_method(chosen: str | None, weights: str | None) -> str:
    return chosen or ("dis" if (weights or "").startswith("random:") else "tvl1")


def _by_id(videos: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in videos:
        if path.stem in found:
            raise InputError(path, f"has the same id as {found[path.stem]}: rename one of them", path.stem)
        found[path.stem] = path
    return found


def _row(name: str, path: Path) -> "ManifestRow":
    """A manifest row, for what it says of the length; extraction finds out by itself what cannot be used."""
    from avfusion.data.manifest import ManifestRow
    from avfusion.errors import MediaError
    from avfusion.media.probe import probe

    try:
        info = probe(path)
    except MediaError:
        return ManifestRow(name, "", str(path))
    return ManifestRow(
        name, "", str(path), info.duration, info.fps, info.frames, info.has_audio, info.sample_rate
    )


def _described(config: "StreamConfig", backbone: "Backbone") -> str:
    flow = f", {config.flow} flow" if config.flow else ""
    return f"{config.name}: {config.backbone}{flow}, weights {backbone.weights}"


def _summary(
    out: Path, rows: "Sequence[ManifestRow]", streams: Sequence[str], absent: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    from avfusion.data.features import FeatureStore

    stores = {stream: FeatureStore([out], stream) for stream in streams}
    yield f"wrote {out}"
    for row in rows:
        yield f"{row.id}:"
        for stream, store in stores.items():
            if row.id in store:
                features = store[row.id]
                count, channels = features.values.shape
                axis = features.axis
                span = f"{axis.first - axis.window / 2:.2f} to {axis.end(count):.2f} s"
                yield (
                    f"  {stream}: {count} snippets x {channels}, from {span},"
                    f" {axis.window:.2f} s every {axis.stride:.2f} s"
                )
            else:
                yield f"  {stream}: absent: {absent[row.id][stream]}"
