"""What a training writes for people."""

import sys
from pathlib import Path

import pytest

from avfusion.engine.history import open_board, write_history
from avfusion.errors import InputError


def row(epoch: int, total: float) -> dict[str, float]:
    return {"epoch": epoch, "lr": 0.1, "total": total, "seconds": 1.23456}


def test_the_table_of_epochs(tmp_path: Path) -> None:
    write_history(tmp_path / "log.csv", [row(0, 2.0), row(1, 1.5)])
    assert (tmp_path / "log.csv").read_text() == "epoch,lr,total,seconds\n0,0.1,2.0,1.23\n1,0.1,1.5,1.23\n"


def test_no_board_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_board(None) as board:
        board.add(row(0, 1.0))
    assert not list(tmp_path.iterdir())


def test_a_board_shows_the_epochs_of_an_interrupted_run_once(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with open_board(tmp_path / "board") as board:
        for epoch in range(3):
            board.add(row(epoch, 3.0 - epoch))
    with open_board(tmp_path / "board", epoch=2) as board:
        board.add(row(2, 0.5))
    events = reader.EventAccumulator(str(tmp_path / "board")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["loss/total", "lr", "seconds"]
    shown = [(event.step, event.value) for event in events.Scalars("loss/total")]
    assert shown == [(0, 3.0), (1, 2.0), (2, 0.5)]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(InputError, match=r"tensorboard: the package is not installed; pip install"),
        open_board(tmp_path),
    ):
        pass
