"""``avfusion import-features``: features that somebody else extracted, as a file of AVFusion."""

import argparse
from pathlib import Path

from avfusion.errors import AvfusionError

DESCRIPTION = """\
Turn features that somebody else extracted into an HDF5 file of AVFusion. SOURCE is a folder with a file per
video, saved by torch.save (.pt, .pth, or without a suffix), .npy or .csv (with or without a header line), or
an HDF5 file with a dataset, or a group of one dataset, per video. Such files say neither where their snippets
lie in time nor which dimension is time: --stride, --unit and --layout do."""
EPILOG = """\
examples:
  I3D features of P-GCN, 64 frames every 8, a file of torch per video:
    avfusion import-features I3D_RGB --stream rgb --unit frames --stride 8 --window 64 --fps 25 --out rgb.h5
  ActivityNet features rescaled to 100 snippets, files v_ID.csv:
    avfusion import-features csv_mean_100 --stream rgb --unit video --videos activity_net.v1-3.min.json \\
        --pattern 'v_{video}' --out rgb.h5
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "import-features",
        help="features of others, e.g. avfusion import-features DIR --stream rgb --stride 0.32 --out rgb.h5",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="folder or HDF5 file")
    add("--stream", required=True, metavar="NAME", help="rgb, flow, audio, ...")
    add("--out", type=Path, required=True, metavar="FILE.h5", help="HDF5 file to write")
    add(
        "--unit",
        choices=("seconds", "frames", "video"),
        default="seconds",
        help="of --stride, --window, --first; video: snippets divide the whole video (default: %(default)s)",
    )
    add("--stride", type=float, help="from one snippet to the next")
    add("--window", type=float, help="what a snippet sees (default: as much as --stride)")
    add("--first", type=float, help="centre of the first snippet (default: half a window)")
    add("--fps", type=float, help="frames per second of all videos (default: as in the manifest)")
    add(
        "--videos",
        type=Path,
        metavar="TABLE",
        help="videos to take, and their durations: a manifest (.tsv, has fps too) or annotations (default: "
        "all in SOURCE)",
    )
    add("--layout", choices=("TC", "CT"), default="TC", help="TC: snippets by channels (default); CT: turned")
    add("--width", type=int, help="channels that there must be (default: as in the first video)")
    add("--pattern", default="{video}", help="name of a file or dataset (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import, and say what is missing.

    Raises:
        AvfusionError: there is nothing to import.
    """
    from avfusion.data.import_features import Geometry, Timing, available, import_features, read_timings

    if args.videos is None:
        videos = {name: Timing() for name in available(args.source, args.pattern)}
    else:
        videos = read_timings(args.videos)
    if not videos:
        raise AvfusionError(f"{args.source}: holds no features of a video: check --pattern")
    if args.fps is not None:
        videos = {name: Timing(timing.duration, args.fps) for name, timing in videos.items()}
    geometry = Geometry(args.unit, args.stride, args.window, args.first)
    absent = import_features(
        args.source, args.out, args.stream, videos, geometry, args.layout, args.width, args.pattern
    )
    print(f"{args.out}: {args.stream} of {len(videos) - len(absent)} videos, {len(absent)} have none")
    for video, reason in list(absent.items())[:3]:
        print(f"  {video}: {reason}")
    return 0
