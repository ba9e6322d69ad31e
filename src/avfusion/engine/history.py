"""What a training writes down for people: a table of epochs as CSV, and curves for TensorBoard."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from avfusion.errors import InputError
from avfusion.files import write_text

Row = Mapping[str, float]  # epoch, lr, mean of every loss, seconds


class Board(Protocol):
    """Something that shows the rows of the epochs."""

    def add(self, row: Row) -> None:
        """Show one more epoch."""


class _NoBoard:
    def add(self, row: Row) -> None:
        pass


class _TensorBoard:
    def __init__(self, folder: Path, epoch: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            problem = "the package is not installed; pip install 'avfusion[logs]', or ask for no curves"
            raise InputError("tensorboard", problem) from error
        # What an interrupted run wrote of later epochs is not shown.
        self.writer = SummaryWriter(str(folder), purge_step=epoch)

    def add(self, row: Row) -> None:
        for name, value in row.items():
            if name != "epoch":
                place = name if name in ("lr", "seconds") else f"loss/{name}"
                self.writer.add_scalar(place, value, int(row["epoch"]))
        self.writer.flush()


@contextmanager
def open_board(folder: str | Path | None, epoch: int = 0) -> Iterator[Board]:
    """Curves in `folder` for TensorBoard, from `epoch` on; nothing at all if `folder` is None.

    Raises:
        InputError: the package tensorboard is missing.
    """
    if folder is None:
        yield _NoBoard()
        return
    board = _TensorBoard(Path(folder), epoch)
    try:
        yield board
    finally:
        board.writer.close()


def write_history(path: str | Path, rows: Sequence[Row]) -> None:
    """Write the rows of all epochs as CSV, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "seconds": f"{row['seconds']:.2f}"} for row in rows)
    write_text(path, text.getvalue())
