"""The ``avfusion`` command: one sub-command per module of this package.

A sub-command's module has ``add_parser(subparsers)``, which names the options and sets the parser's default
``run``, and ``run(args) -> int``, whose result is the exit status. What is slow to import (torch, cv2, av,
numpy) is imported inside `run`, so that ``--help`` answers at once.
"""

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from avfusion import __version__
from avfusion.cli import (
    doctor,
    evaluate,
    export_features,
    extract,
    import_checkpoint,
    import_features,
    init_dataset,
    weights,
)
from avfusion.errors import AvfusionError

COMMANDS = (
    *(evaluate, extract, init_dataset, import_features, export_features),
    *(import_checkpoint, weights, doctor),
)
INTERRUPTED, BROKEN_PIPE = 130, 141  # 128 + the signal's number, as a shell reports it
EXAMPLES = """\
examples:
  avfusion evaluate detections.json --annotations annotations.json --subset test
  avfusion extract video.mp4 --streams rgb,audio --weights random:0 --out features.h5
  avfusion import-features FOLDER --stream rgb --stride 0.32 --window 2.56 --out rgb.h5
  avfusion import-checkpoint muses_rgb.pth.tar --labels classes.txt --out muses_rgb.pt
  avfusion doctor

`avfusion COMMAND --help` explains a command. Whole experiments, from videos to the table of results, are run
by Snakemake: `snakemake --cores all results/demo/mAP.tsv`.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    What the user can mend (`AvfusionError`, a file that cannot be written) is one line on standard error and
    status 1; anything else is a fault of ours and keeps its traceback.
    """
    args = build_parser().parse_args(argv)
    with _logging_to_stderr(args.verbose):
        try:
            status = int(args.run(args))
            sys.stdout.flush()
            return status
        except AvfusionError as error:
            return _complain(str(error))
        except BrokenPipeError:
            # The reader of our output has gone; what is still buffered must not raise again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return BROKEN_PIPE
        except OSError as error:
            if error.filename is None:
                raise
            return _complain(f"{error.filename}: {error.strerror}")
        except KeyboardInterrupt:
            print("avfusion: interrupted", file=sys.stderr)
            return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command and all its sub-commands."""
    parser = argparse.ArgumentParser(
        prog="avfusion",
        description="Temporal action localization in video with sound: features, evaluation, import of what "
        "others released, and a check-up.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"avfusion {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more about what is being done")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def _complain(text: str) -> int:
    print(f"avfusion: error: {' '.join(text.split())}", file=sys.stderr)
    return 1


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"avfusion: {level}{' '.join(record.getMessage().split())}"


@contextmanager
def _logging_to_stderr(verbose: bool) -> Iterator[None]:
    """Warnings always; progress where there is no terminal that shows a bar."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Format())
    logger = logging.getLogger("avfusion")
    before = logger.level
    shows_bar = sys.stderr.isatty() and not verbose
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if shows_bar else logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
