"""``avfusion init-dataset``: from a folder of videos and a file of annotations to a dataset."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avfusion.media.own_dataset import Survey

DESCRIPTION = """\
Look at videos and annotations of your own, say what is there and everything that is wrong, split the videos
into a training and a test subset if the annotations do not, and write config/datasets/NAME.yaml. Then
`snakemake --cores all results/NAME/mAP.tsv` does the rest (docs/your-own-videos.md)."""
EPILOG = """\
formats:
  --annotations is a CSV with the columns video, label, start, end, and perhaps subset (train, test); times
  are seconds (75.5) or clock times (1:15.5, 0:01:15.5). Or an ActivityNet JSON,
    {"database": {VIDEO: {"subset": NAME, "annotations": [{"label": LABEL, "segment": [START, END]}, ...]}}}.
  VIDEO is the name of a file of --videos without its suffix.

example:
  avfusion init-dataset pets --videos ~/clips --annotations ~/clips.csv
"""
WEIGHTS = {"rgb": "i3d_rgb", "flow": "i3d_flow", "audio": "vggish"}  # of avfusion.backbones.published
CLIPS_PER_SHARD, MOST_SHARDS = 25, 200
TEMPLATE = """\
# Written by `avfusion init-dataset {name}`; edit it as you like. config/README.md lists all keys.
title: {title}
media: {{source: folder, path: {videos}}}
annotations: {annotations}
subsets: {{train: {train}, test: {test}}}
shards: {shards}
tiou: [0.3, 0.4, 0.5, 0.6, 0.7]

streams:
{streams}

# Candidate segments: these lengths in seconds cover nine in ten of the annotated ones.
proposals:
  windows: {{lengths: {lengths}, overlap: 0.75}}

experiments:
{experiments}
"""
STREAMS = {
    "rgb": "  rgb: {{weights: {weights}, fps: 25, window: 16, stride: 8, short_side: 256}}",
    "flow": "  flow: {{weights: {weights}, fps: 25, window: 16, stride: 8, short_side: 256, flow: tvl1}}",
    "audio": "  audio: {{weights: {weights}, grid: {grid}, window: 0.96}}",
}
EXPERIMENTS = {
    "muses-rgb": {"rgb"},
    "muses-flow": {"flow"},
    "muses-rgb+flow": {"rgb", "flow"},
    "muses-audio": {"audio"},
    "muses-rgb+audio-concat": {"rgb", "audio"},
    "muses-best": {"rgb", "flow", "audio"},
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "init-dataset",
        help="make a dataset of your own videos and annotations",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="name of the dataset: letters, digits, _ and -")
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help="folder of the videos")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="CSV or JSON")
    parser.add_argument(
        "--test-share",
        type=_share,
        default=0.25,
        metavar="SHARE",
        help="share of the videos to test on, if FILE names no subsets (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of that split (default: %(default)s)")
    parser.add_argument(
        "--streams",
        default="rgb,audio",
        metavar="LIST",
        help="streams to use, of rgb, flow, audio; flow takes long (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help="random:SEED for a trial without trained weights (default: published ones, fetched by a rule)",
    )
    parser.add_argument("--force", action="store_true", help="replace a dataset of that name")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Survey, report, and write the files if there is nothing wrong."""
    from avfusion.data.annotations import write_annotations
    from avfusion.errors import InputError
    from avfusion.files import write_text
    from avfusion.media.own_dataset import describe, survey

    config = _config_path(args.name, args.force)
    streams = _streams(args.streams)
    found = survey(args.videos, args.annotations, args.test_share, args.seed)
    print("\n".join(describe(found)))
    if found.problems:
        print("\n".join(f"problem: {problem}" for problem in found.problems))
        count = len(found.problems)
        told = "1 problem" if count == 1 else f"{count} problems"
        raise InputError(args.annotations, f"{told} (see above); nothing has been written")
    if not found.annotations.instances():
        raise InputError(args.annotations, "has no instance of any class in these videos")
    annotations = Path("resources") / args.name / "annotations.json"
    write_annotations(annotations, found.annotations)
    write_text(config, _config(args, found, annotations, streams))
    print(f"\nwrote {annotations} and {config}; next:")
    print(f"  snakemake --cores all results/{args.name}/mAP.tsv")
    return 0


def _config_path(name: str, force: bool) -> Path:
    from avfusion.errors import InputError

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise InputError(
            "NAME", f"'{name}' must consist of letters, digits, _ and - (files are named after it)"
        )
    folder = Path("config") / "datasets"
    if not folder.is_dir():
        raise InputError(folder, "there is no such folder here: run this in the folder of the workflow")
    path = folder / f"{name}.yaml"
    if path.exists() and not force:
        raise InputError(path, "is there already: choose another name, or say --force to replace it")
    return path


def _streams(text: str) -> list[str]:
    from avfusion.errors import InputError, known_names

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in STREAMS:
            raise InputError("--streams", f"there is no stream '{name}'{known_names(name, STREAMS)}")
    if not names:
        raise InputError("--streams", "names no stream")
    return [name for name in STREAMS if name in names]


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' must be a number between 0 and 1")
    return value


def _config(args: argparse.Namespace, found: "Survey", annotations: Path, streams: list[str]) -> str:
    import json

    from avfusion.media.own_dataset import window_lengths

    grid = next((name for name in ("rgb", "flow") if name in streams), "null")
    lines = [
        STREAMS[name].format(weights=args.weights or f"published:{WEIGHTS[name]}", grid=grid)
        for name in streams
    ]
    count = len(found.annotations.videos)
    return TEMPLATE.format(
        name=args.name,
        title=json.dumps(args.name),
        videos=json.dumps(str(args.videos)),
        annotations=annotations,
        train=json.dumps(found.train),
        test=json.dumps(found.test),
        shards=min(max(2, -(-count // CLIPS_PER_SHARD)), MOST_SHARDS),
        streams="\n".join(lines),
        lengths=window_lengths(found.annotations),
        experiments="\n".join(f"  {name}:" for name, needs in EXPERIMENTS.items() if needs <= set(streams)),
    )
