"""``avfusion evaluate``: mean average precision of a file of detections."""

import argparse
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avfusion.data.annotations import Annotations
    from avfusion.evaluation.mean_ap import Evaluation

DEFAULT_SUBSET = "test"
DEFAULT_TIOU = "0.3:0.7:0.1"
MOST_THRESHOLDS = 1000
DESCRIPTION = """\
Interpolated mean average precision (all points) of detections over temporal IoU thresholds, in the protocol
of the ActivityNet toolkit. All videos of the subset count, with detections or without. Times are seconds."""
EPILOG = """\
formats:
  DETECTIONS, gzipped or not, is an ActivityNet submission JSON,
    {"results": {VIDEO: [{"label": LABEL, "score": SCORE, "segment": [START, END]}, ...]}},
  or a CSV with the columns video_id, label, start, end, score.
  --annotations is an ActivityNet JSON, gzipped or not,
    {"database": {VIDEO: {"subset": NAME, "duration": SECONDS,
                          "annotations": [{"label": LABEL, "segment": [START, END]}, ...]}}},
  or a folder of THUMOS14 tables, SUBSET_Annotation.csv (video, type, start, end) and, for the durations,
  SUBSET_video_info.csv (video, fps, count).

examples:
  avfusion evaluate detections.csv.gz --annotations thumos14/annotations --subset test --per-class
  avfusion evaluate submission.json --annotations activity_net.v1-3.min.json --subset validation \\
      --tiou 0.5:0.95:0.05 --json evaluation.json
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="mAP of detections, e.g. avfusion evaluate det.json --annotations ann.json",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("detections", type=Path, metavar="DETECTIONS", help="submission JSON or CSV")
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="PATH", help="JSON, or a folder of THUMOS14 tables"
    )
    parser.add_argument(
        "--subset",
        metavar="NAME",
        help=f"subset of the annotations to use (default: the only one there is, or {DEFAULT_SUBSET})",
    )
    parser.add_argument(
        "--tiou",
        type=parse_tiou,
        default=DEFAULT_TIOU,
        metavar="LIST",
        help="thresholds: first:last:step, or a comma-separated list (default: %(default)s)",
    )
    parser.add_argument(
        "--per-class", action="store_true", help="also print the average precision of each class"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write everything to this JSON file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print a table, and write the JSON if asked for."""
    from avfusion.data.annotations import read_annotations
    from avfusion.data.detections import read_detections
    from avfusion.evaluation.mean_ap import evaluate
    from avfusion.files import write_json

    annotations = _choose_subset(read_annotations(args.annotations), args.subset)
    evaluation = evaluate(read_detections(args.detections), annotations, args.tiou)
    if args.json:
        write_json(args.json, evaluation.to_json())
    print("\n".join(_report(evaluation, args.per_class)))
    return 0


def parse_tiou(text: str) -> tuple[float, ...]:
    """Thresholds from ``first:last:step`` (both ends included) or ``a,b,c``.

    Raises:
        argparse.ArgumentTypeError: no such list, or a threshold outside (0, 1].
    """
    try:
        if ":" in text:
            first, last, step = map(Decimal, text.split(":"))
            if not (step > 0 and last >= first and (last - first) / step < MOST_THRESHOLDS):
                raise ValueError
            # decimals, because 0.3 + 3 * 0.1 is not the 0.6 that a published threshold is
            values = [first + k * step for k in range(int((last - first) / step) + 1)]
        else:
            values = list(map(Decimal, text.split(",")))
        if not all(0 < value <= 1 for value in values):
            raise ValueError
    except (ValueError, InvalidOperation) as error:
        problem = f"'{text}' should be like 0.3:0.7:0.1 or 0.5,0.75,0.95, each above 0 and at most 1"
        raise argparse.ArgumentTypeError(problem) from error
    return tuple(map(float, values))


def _choose_subset(annotations: "Annotations", name: str | None) -> "Annotations":
    subsets = annotations.subsets
    if name is None:
        name = next(iter(subsets)) if len(subsets) == 1 else DEFAULT_SUBSET
    return annotations.subset(name)


def _report(evaluation: "Evaluation", per_class: bool) -> list[str]:
    width = max((len(label) for label in evaluation.labels), default=0) if per_class else 0
    width = max(width, len("mAP (%)"))
    rows = [("mAP (%)", evaluation.map, evaluation.average)]
    if per_class:
        named = sorted(
            zip(evaluation.labels, evaluation.ap, evaluation.instances, strict=True), key=lambda r: r[0]
        )
        rows += [(label, ap, float(ap.mean())) for label, ap, instances in named if instances]
    cells = [[f"{100 * value:.2f}" for value in (*values, average)] for _, values, average in rows]
    size = max(len(cell) for row in cells for cell in row)
    head = [*(f"{threshold:.2f}" for threshold in evaluation.tiou), "average"]

    def line(name: str, texts: list[str]) -> str:
        *figures, last = texts
        return f"{name:<{width}} {' '.join(f'{text:>{size}}' for text in figures)} {last:>8}"

    lines = [line("tIoU", head), *(line(row[0], texts) for row, texts in zip(rows, cells, strict=True))]
    if per_class:
        lines.insert(2, "")
    return [*lines, "", f"protocol: {evaluation.protocol}", *_remarks(evaluation)]


def _remarks(evaluation: "Evaluation") -> list[str]:
    protocol = evaluation.protocol
    remarks = []
    if protocol.detections_unknown:
        remarks.append(
            f"note: {protocol.detections_unknown} detections are in {protocol.videos_unknown} videos that the"
            " annotations do not have; they count as false positives"
        )
    if protocol.detections_elsewhere:
        remarks.append(
            f"note: {protocol.detections_elsewhere} detections are in {protocol.videos_elsewhere} videos of"
            " another subset; they were set aside"
        )
    absent = [
        label for label, count in zip(evaluation.labels, evaluation.instances, strict=True) if not count
    ]
    if absent:
        remarks.append(f"note: without an instance here, and so without AP: {', '.join(absent)}")
    return remarks
