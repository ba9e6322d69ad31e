"""``avfusion import-checkpoint``: released weights as checkpoints and weights of AVFusion."""

import argparse
from pathlib import Path
from typing import Any

from avfusion.errors import InputError

KINDS = ("auto", "muses", "pgcn", "gtad", "i3d", "vggish", "vggish_pca")
DESCRIPTION = """\
Turn a released checkpoint of MUSES, P-GCN or G-TAD (with or without the RM attention of tal-hmo) into a
checkpoint of AVFusion, or released weights of I3D (both common layouts) or VGGish into a file that `weights`
of a stream takes (and those of VGGish's post-processor into AudioSet's .npz). What it is, how many classes it
knows and how wide it is are read off names and shapes. Nothing in the file is executed. Names that are
missing or left over, and other shapes, are refused."""
EPILOG = """\
examples:
  avfusion import-checkpoint thumos_rgb.pth.tar --labels thumos14_classes.txt --out muses_rgb.pt
  avfusion import-checkpoint RGB_cpt.pth --labels annotations.json --out pgcn_rgb.pt
  avfusion import-checkpoint GTAD_best.pth.tar --set windows=rescaled --set temporal_scale=100 \\
      --set max_duration=100 --out gtad_activitynet.pt
  avfusion import-checkpoint i3d_rgb.pt --out resources/i3d_rgb.pt
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "import-checkpoint",
        help="released weights, e.g. avfusion import-checkpoint muses.pth.tar --labels l.txt --out muses.pt",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="written by torch.save")
    add("--out", type=Path, required=True, metavar="OUT", help="file to write")
    add("--kind", choices=KINDS, default="auto", help="what it is (default: by the names in the file)")
    add(
        "--labels",
        type=Path,
        metavar="LIST",
        help="names of a detector's classes in the order of their numbers: a text with one per line, or "
        "annotations (.json) whose labels are in that order (default: class_1, class_2, ...)",
    )
    add(
        "--widths",
        type=parse_widths,
        metavar="LIST",
        help="channels of the streams it will be given, such as 1024,128 (default: one stream; with "
        "attention, the picture and 128 of sound)",
    )
    add(
        "--set",
        dest="options",
        type=parse_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the detector that shapes do not tell; may be repeated",
    )
    add(
        "--reg-stats",
        type=parse_numbers,
        metavar="LIST",
        help="statistics of regression targets, if the file has none: mean of centre and log length, then "
        "their deviations; write --reg-stats=LIST",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import, and say what it is."""
    from avfusion.engine.import_checkpoint import import_checkpoint

    labels = None if args.labels is None else read_labels(args.labels)
    found = import_checkpoint(
        args.file, args.out, args.kind, labels, args.widths, dict(args.options), args.reg_stats
    )
    told = "".join(f", {name} {value}" for name, value in found.options.items())
    if found.labels:
        channels = "+".join(map(str, found.widths))
        print(f"{args.out}: {found.kind}, {len(found.labels)} classes, {channels} channels{told}")
    else:
        print(f"{args.out}: {found.kind}{told}")
    return 0


def read_labels(path: Path) -> list[str]:
    """Names of classes: those of annotations (``.json``, or a folder of tables), or the lines of a text.

    Raises:
        InputError: the file cannot be read, or holds no names.
    """
    if path.is_dir() or ".json" in path.suffixes:
        from avfusion.data.annotations import read_annotations

        return list(read_annotations(path).labels)
    from avfusion.data.tables import read_text

    names = [line.strip() for line in read_text(path).splitlines()]
    if not any(names):
        raise InputError(path, "holds no names: write one class per line")
    return [name for name in names if name]


def parse_widths(text: str) -> tuple[int, ...]:
    """Whole numbers above 0 from a comma-separated list.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' should be like 1024,128")
    return tuple(map(int, parts))


def parse_numbers(text: str) -> tuple[float, ...]:
    """Numbers from a comma-separated list.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        return tuple(map(float, text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' should be numbers like 0.1,-0.2,0.3,0.4") from error


def parse_option(text: str) -> tuple[str, Any]:
    """Name and value from ``NAME=VALUE``; values are read as YAML.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    import yaml

    name, equals, value = text.partition("=")
    try:
        if not (name and equals):
            raise ValueError
        return name, yaml.safe_load(value)
    except (ValueError, yaml.YAMLError) as error:
        raise argparse.ArgumentTypeError(f"'{text}' should be like temporal_scale=100") from error
