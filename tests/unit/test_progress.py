"""Progress: nothing lost of what is iterated over, plain lines in a log, a bar only on a terminal."""

import logging
from collections.abc import Iterator

import pytest

from avfusion import progress
from avfusion.progress import track


class Clock:
    """A clock that every item of work moves by `step` seconds."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def monotonic(self) -> float:
        return self.now

    def work(self) -> None:
        self.now += self.step


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(step=4.0)
    monkeypatch.setattr(progress.time, "monotonic", made.monotonic)
    return made


def lines_of(caplog: pytest.LogCaptureFixture, clock: Clock, items: object, **options: object) -> list[str]:
    with caplog.at_level(logging.INFO, "avfusion"):
        for _ in track(items, "extracting rgb", **options):  # type: ignore[arg-type]
            clock.work()
    return [record.getMessage() for record in caplog.records]


def test_a_line_every_ten_seconds(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    assert lines_of(caplog, clock, range(8), unit="video") == [
        "extracting rgb: 3/8 video (38%), about 20 s left",
        "extracting rgb: 6/8 video (75%), about 8 s left",
        "extracting rgb: 8 video in 32 s",
    ]


def test_without_a_length_or_with_a_wrong_one(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    assert lines_of(caplog, clock, iter(range(3)))[0] == "extracting rgb: 3 it in 12 s"
    caplog.clear()
    assert (
        lines_of(caplog, clock, iter(range(3)), total=2)[0] == "extracting rgb: 3/2 it (150%), about 0 s left"
    )


def test_short_work_is_silent(
    caplog: pytest.LogCaptureFixture, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    clock.step = 0.1
    assert lines_of(caplog, clock, range(3)) == []
    assert capsys.readouterr() == ("", "")


def test_items_come_through_in_order_and_errors_too() -> None:
    assert list(track("abc", "spelling")) == ["a", "b", "c"]
    assert list(track([], "nothing")) == []

    def failing() -> Iterator[int]:
        yield 1
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(track(failing(), "failing"))


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    list(track(range(3), "extracting rgb"))
    assert "extracting rgb" in capsys.readouterr().err
