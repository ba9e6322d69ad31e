"""The command's frame and `avfusion evaluate`: help, exit status, one-line complaints, light imports."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from avfusion import __version__
from avfusion.cli import main as frame
from avfusion.cli.evaluate import parse_tiou
from avfusion.cli.main import main
from avfusion.errors import InputError

HEAVY = ("torch", "cv2", "matplotlib", "pandas", "av", "h5py", "resampy")


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    database = {
        "a": {"subset": "test", "duration": 20.0, "annotations": [{"label": "Run", "segment": [0, 10]}]},
        "b": {"subset": "train", "annotations": [{"label": "Jump", "segment": [0, 5]}]},
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"database": database}))
    return path


@pytest.fixture
def detections(tmp_path: Path) -> Path:
    path = tmp_path / "detections.csv"
    path.write_text("video_id,label,start,end,score\na,Run,0,6,0.5\nb,Jump,0,5,0.9\nz,Run,0,9,0.1\n")
    return path


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"avfusion {__version__}\n"
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for command in ("evaluate", "extract", "import-features", "import-checkpoint", "doctor"):
        assert re.search(rf"\n    {command}\s", text)
        assert f"avfusion {command}" in text  # its example


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["evaluate"], ["evaluate", "x", "--annotations", "y", "--tiou", "2"]]
)
def test_wrong_arguments_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: avfusion" in capsys.readouterr().err


def test_evaluate_prints_table_protocol_and_remarks(
    annotations: Path, detections: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "evaluation.json"
    arguments = ["evaluate", str(detections), "--annotations", str(annotations), "--subset", "test"]
    assert main([*arguments, "--tiou", "0.5,0.75", "--json", str(out), "--per-class"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["tIoU", "0.50", "0.75", "average"],
        ["mAP", "(%)", "100.00", "0.00", "50.00"],
    ]
    assert ["Run", "100.00", "0.00", "50.00"] in [line.split() for line in lines]
    assert (
        "protocol: subset test, 1 annotated videos (1 with detections), 1 instances of 1 classes"
        in captured.out
    )
    assert "time base seconds" in captured.out
    assert "note: 1 detections are in 1 videos that the annotations do not have" in captured.out
    assert "note: 1 detections are in 1 videos of another subset" in captured.out
    assert "note: without an instance here, and so without AP: Jump" in captured.out
    assert captured.err == ""
    assert json.loads(out.read_text())["mAP"] == [1.0, 0.0]


def test_evaluate_takes_the_only_subset_or_test(
    annotations: Path, detections: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(detections), "--annotations", str(annotations)]) == 0
    assert "subset test" in capsys.readouterr().out
    annotations.write_text(annotations.read_text().replace('"test"', '"validation"'))
    assert main(["evaluate", str(detections), "--annotations", str(annotations)]) == 1
    assert "subsets: validation (1 videos), train (1 videos)" in capsys.readouterr().err
    annotations.write_text(annotations.read_text().replace('"train"', '"validation"'))
    assert main(["evaluate", str(detections), "--annotations", str(annotations)]) == 0
    assert "subset validation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("0.5\n", "nan\n", "detections.csv: line 2, column score: "),
        ("a,Run", "a,run", "detections.csv: line 2: 'run' is no class"),
        ("[0, 10]", "[10, 0]", "annotations.json: database.a.annotations[0].segment: "),
        ('"database"', '"data"', "annotations.json: database: "),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    annotations: Path, detections: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, place: str
) -> None:
    for path in (annotations, detections):
        path.write_text(path.read_text().replace(old, new))
    out = annotations.parent / "out" / "evaluation.json"
    status = main(["evaluate", str(detections), "--annotations", str(annotations), "--json", str(out)])
    captured = capsys.readouterr()
    assert status == 1
    assert captured.out == ""
    assert captured.err.startswith("avfusion: error: ")
    assert captured.err.count("\n") == 1
    assert place in captured.err
    assert not out.exists()


def test_segment_past_the_end_is_one_warning(
    annotations: Path, detections: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations.write_text(annotations.read_text().replace("[0, 10]", "[0, 100]"))
    assert main(["evaluate", str(detections), "--annotations", str(annotations)]) == 0
    warning = capsys.readouterr().err
    assert warning.startswith(
        f"avfusion: warning: {annotations}: a: annotations[0].segment: [0, 100] reaches past"
    )
    assert warning.count("\n") == 1


def test_a_result_that_cannot_be_written(
    annotations: Path, detections: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = detections / "evaluation.json"  # beneath a file
    assert main(["evaluate", str(detections), "--annotations", str(annotations), "--json", str(out)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("avfusion: error: ")
    assert str(detections) in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.3:0.7:0.1", (0.3, 0.4, 0.5, 0.6, 0.7)),
        ("0.5:0.95:0.05", (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)),
        ("0.5", (0.5,)),
        ("0.5:0.5:0.1", (0.5,)),
        ("0.5, 0.75,.95", (0.5, 0.75, 0.95)),
        ("0.2:1:0.3", (0.2, 0.5, 0.8)),
    ],
)
def test_thresholds_are_exact_decimals(text: str, values: tuple[float, ...]) -> None:
    assert parse_tiou(text) == values


@pytest.mark.parametrize(
    "text",
    [
        "",
        "high",
        "0.7:0.3:0.1",
        "0.3:0.7",
        "0.3:0.7:0",
        "0.3:0.7:-0.1",
        "0",
        "1.1",
        "nan",
        "0.1:1:1e-9",
        "1:2:3:4",
    ],
)
def test_senseless_thresholds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"should be like 0\.3:0\.7:0\.1"):
        parse_tiou(text)


def raising(error: BaseException) -> type:
    class Command:
        @staticmethod
        def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
            subparsers.add_parser("fail").set_defaults(run=Command.run)

        @staticmethod
        def run(args: argparse.Namespace) -> int:
            raise error

    return Command


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (
            InputError("f.json", "is bad\nand long", "line 1"),
            1,
            "avfusion: error: f.json: line 1: is bad and long\n",
        ),
        (
            OSError(28, "No space left on device", "out.h5"),
            1,
            "avfusion: error: out.h5: No space left on device\n",
        ),
        (KeyboardInterrupt(), 130, "avfusion: interrupted\n"),
    ],
)
def test_exit_status(
    error: BaseException,
    status: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(frame, "COMMANDS", (raising(error),))
    assert main(["fail"]) == status
    assert capsys.readouterr().err == text


def test_our_own_faults_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "COMMANDS", (raising(ZeroDivisionError()),))
    with pytest.raises(ZeroDivisionError):
        main(["fail"])


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, env=os.environ
    )


def test_the_command_line_imports_nothing_heavy(annotations: Path, detections: Path) -> None:
    program = (
        "import sys; from avfusion.cli.main import main, build_parser; build_parser().format_help(); "
        "assert 'numpy' not in sys.modules, 'numpy'; "
        "status = main(sys.argv[1:]); print(sorted(set(sys.modules) & set("
        + repr(HEAVY)
        + "))); sys.exit(status)"
    )
    done = python("-c", program, "evaluate", str(detections), "--annotations", str(annotations))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_leaves_early_is_no_error(annotations: Path, detections: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "avfusion",
        "evaluate",
        str(detections),
        "--annotations",
        str(annotations),
    ]
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    finally:
        os.close(write)
    assert done.returncode == 141
    assert done.stderr == ""
