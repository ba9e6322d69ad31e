import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from report_files import GOOD, POOR, TIOU, write_files

import avfusion
from avfusion.errors import InputError
from avfusion.report.results import ResultRow, load_results, tell_of_silence
from avfusion.report.table import format_table, write_table


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_a_row_has_percent_per_threshold_and_says_what_it_was_measured_on(tmp_path: Path) -> None:
    files = write_files(tmp_path, rgb=[POOR], rgb_audio=[GOOD])
    rows = [replace(files.rows[0], reference=[67.91, None, 29.9], note="as\tpublished"), files.rows[1]]
    write_table(tmp_path / "mAP.tsv", rows)
    first, second = read(tmp_path / "mAP.tsv")
    # clap is never found (AP 0). hop: ranks 2 and 3 of 3 are right at 0.3 and 0.5, AP = (2/3 + 2/3) / 2;
    # at 0.7 the one that covers 0.6 of its instance is lost, AP = (1/2) / 2.
    assert first["mAP@0.3"] == first["mAP@0.5"] == "33.33"
    assert first["mAP@0.7"] == "12.50"
    assert first["average"] == "26.39"
    assert first["reference"] == "67.91 - 29.90"
    assert first["note"] == "as published"
    assert first["videos"] == "2/3"
    assert (second["streams"], second["fusion"], second["mAP@0.7"]) == ("rgb+audio", "concat", "100.00")
    assert list(second) == [
        *("experiment", "detector", "streams", "fusion", "mAP@0.3", "mAP@0.5", "mAP@0.7"),
        *("average", "spread", "seeds", "videos", "reference", "note", "protocol", "version"),
    ]
    protocol = "3 instances of 2 classes in 3 videos of 'test', time in seconds, AP over all points"
    assert (first["protocol"], first["version"]) == (protocol, avfusion.__version__)


def test_rows_that_listen_tell_of_silent_videos(tmp_path: Path) -> None:
    files = write_files(tmp_path, rgb=[POOR], rgb_audio=[GOOD])
    seen, heard = tell_of_silence([files.rows[0], replace(files.rows[1], note="x")], 1, 3, "drop")
    assert (seen.note, heard.note) == ("", "x; 1 of 3 test videos have no sound: left out")
    assert tell_of_silence(files.rows, 0, 3, "zeros") == files.rows


def test_several_seeds_give_mean_and_spread(tmp_path: Path) -> None:
    files = write_files(tmp_path, rgb=[POOR, GOOD], audio=[GOOD])
    write_table(tmp_path / "mAP.tsv", files.rows)
    several, single = read(tmp_path / "mAP.tsv")
    assert several["mAP@0.5"] == "66.67"
    # averages of the two seeds: 26.389 and 100; their standard deviation is the difference over sqrt(2)
    assert (several["seeds"], several["spread"]) == ("0 1", "52.05")
    assert (single["seeds"], single["spread"]) == ("0", "")


def test_columns_for_a_terminal_line_up(tmp_path: Path) -> None:
    files = write_files(tmp_path, rgb=[POOR], rgb_audio=[GOOD])
    write_table(tmp_path / "mAP.tsv", files.rows)
    head, first, second, protocol, version = format_table(tmp_path / "mAP.tsv").split("\n")
    assert protocol.startswith("protocol: 3 instances") and version.startswith("version: ")
    assert "reference" not in head  # empty throughout
    place = head.index("mAP@0.3") + len("mAP@0.3")
    assert first[:place].endswith(" 33.33") and second[:place].endswith(" 100.00")


def changed(path: Path, **values: object) -> Path:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | values))
    return path


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tiou": [0.3, 0.4, 0.5]}, "tiou: measures at"),
        ({"mAP": [0.1, float("nan"), 0.1]}, "mAP: holds a value that is not finite"),
        ({"mAP": [0.1]}, "is no evaluation"),
        ({"classes": {}}, "classes: has other classes"),
    ],
)
def test_an_evaluation_that_does_not_fit_is_refused(
    tmp_path: Path, change: dict[str, object], expected: str
) -> None:
    files = write_files(tmp_path, rgb=[POOR], audio=[GOOD])
    bad = changed(Path(files.rows[1].evaluations[0]), **change)
    with pytest.raises(InputError, match=expected) as error:
        write_table(tmp_path / "mAP.tsv", files.rows)
    assert str(bad) in str(error.value)
    assert not (tmp_path / "mAP.tsv").exists()


def test_evaluations_on_another_ground_truth_do_not_stand_in_one_table(tmp_path: Path) -> None:
    files = write_files(tmp_path, rgb=[POOR], audio=[GOOD])
    path = Path(files.rows[1].evaluations[0])
    changed(path, protocol=json.loads(path.read_text())["protocol"] | {"videos": 210})
    with pytest.raises(InputError, match=r"protocol.videos: is 210, in .*seed0.json 3: evaluate both"):
        load_results(files.rows)


def test_rows_without_evaluations_and_references_of_another_length_are_refused(tmp_path: Path) -> None:
    files = write_files(tmp_path, rgb=[POOR])
    with pytest.raises(InputError, match="muses-x: has no evaluation"):
        load_results([ResultRow("muses-x", "muses", ["rgb"], "", {})])
    with pytest.raises(InputError, match=f"2 reference figures for {len(TIOU)} thresholds"):
        load_results([replace(files.rows[0], reference=[1.0, 2.0])])
    with pytest.raises(InputError, match="there is no such file"):
        load_results([replace(files.rows[0], evaluations={0: tmp_path / "nowhere.json"})])
