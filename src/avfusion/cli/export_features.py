"""``avfusion export-features``: features in the layouts that other codes read."""

import argparse
from pathlib import Path

DESCRIPTION = """\
Write features of AVFusion as other codes read them. npy: STREAM/VIDEO.npy and STREAM/times.json; muses:
STREAM/VIDEO.npy; pgcn: STREAM/VIDEO, saved by torch; gtad: STREAM_val.h5 and STREAM_test.h5 with a dataset
per video, every row five times (--repeat), because G-TAD takes every fifth."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "export-features",
        help="features for other codes, e.g. avfusion export-features rgb.h5 --layout pgcn --out DIR",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("shards", nargs="+", type=Path, metavar="SHARD", help="HDF5 files of features")
    add("--layout", required=True, choices=("npy", "muses", "pgcn", "gtad"), help="of which code")
    add("--out", required=True, type=Path, metavar="DIR", help="folder to write to")
    add(
        "--stream",
        action="append",
        help="stream to export, may be repeated (default: all)",
    )
    add("--repeat", type=int, default=5, help="of gtad: how often a row stands there (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, and say how many videos there were and which are missing.

    Raises:
        InputError: a file that holds no such features.
    """
    from avfusion.data.export_features import export_features
    from avfusion.data.features import FeatureStore
    from avfusion.data.hdf5 import reading

    with reading(args.shards[0], "features") as file:
        streams = args.stream or sorted(file)
    for stream in streams:
        store = FeatureStore(args.shards, stream)
        count = export_features(store, stream, args.layout, args.out, args.repeat)
        print(f"{stream}: {count} videos to {args.out}")
        for video, reason in sorted(store.absent.items()):
            print(f"  {video} is absent: {reason}")
    return 0
