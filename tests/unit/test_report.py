import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from report_files import GOOD, POOR, Files, annotations, detections, write_files

from avfusion.data.annotations import read_annotations
from avfusion.data.detections import read_detections
from avfusion.data.proposals import RankedProposals
from avfusion.errors import InputError
from avfusion.evaluation.average_recall import as_detections, average_recall
from avfusion.files import write_json
from avfusion.report import style
from avfusion.report.comparisons import DECISION_HELPS, SCHEME_HELPS, SOUND_HELPS, compare, pairs
from avfusion.report.figures import audio_pairs
from avfusion.report.html import FIGURES, write_figures, write_report
from avfusion.report.outcomes import Outcome, judge
from avfusion.report.recall import load_curves
from avfusion.report.results import Result, ResultRow, load_results
from avfusion.report.timeline import pick_videos

NOTE = "Synthetic videos; backbones were trained on <their own> clips."
EXPERIMENTS = {"rgb": [POOR], "audio": [POOR], "rgb_audio": [GOOD, POOR]}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_files(tmp_path_factory.mktemp("report"), **EXPERIMENTS)


@pytest.fixture(scope="module")
def page(files: Files, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write(path, files)
    return path.read_text()


def write(path: Path, files: Files) -> None:
    facts = {"seed": 0, "flow": "dis"}
    write_report(path, "demo", files.rows, files.detections, files.annotations, "test", NOTE, facts)


class Balance(HTMLParser):
    """Complains of a tag that is closed and was not open."""

    VOID = ("meta", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(page: str) -> None:
    checker = Balance()
    checker.feed(page)
    assert checker.open == []
    assert not re.search(r"""\bsrc=|href=(?!"(?:#|data:))|url\((?!#)|@import|<script""", page)
    pictures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(pictures) == len(FIGURES)
    for picture in pictures:
        ElementTree.fromstring(picture)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"""(?:url\(#|href="#)([^)"]+)""", page)) <= set(ids)


def test_the_page_says_which_fusion_helped(files: Files, page: str) -> None:
    assert "Which fusion helped" in page
    # Only the first seed counts, as the stream alone has no second one; it is better in every video.
    assert "Than the same detector without sound, better: muses-rgb+audio." in page
    results = load_results(files.rows)
    found = {name: read_detections(path) for name, path in files.detections.items()}
    truth = read_annotations(files.annotations).subset("test")
    comparison = compare(results, found, truth)[0]
    names = comparison.one.row.experiment, comparison.other.row.experiment
    assert (*names, comparison.question) == ("muses-rgb+audio", "muses-rgb", SOUND_HELPS)
    assert comparison.mean == pytest.approx(100 * (results[2].mean_ap[0] - results[0].mean_ap[0]).mean())
    assert comparison.spread is None, "the stream alone ran with one seed"


def test_recall_of_proposals_is_a_picture_if_there_is_any(files: Files, tmp_path: Path) -> None:
    proposals = {
        "b": RankedProposals(np.array([[2.0, 6.0], [10.0, 14.0]]), np.array([0.9, 0.8])),
        "a": RankedProposals(np.array([[5.0, 9.0], [0.0, 1.0]]), np.array([0.9, 0.8])),
    }
    curve = average_recall(as_detections(proposals), annotations().subset("test"), max_average=2)
    assert (curve.at(1), curve.at(2), curve.at(50)) == (pytest.approx(2 / 3), 1.0, 1.0)
    write_json(tmp_path / "gtad.json", curve.to_json())
    recalls = {"gtad-rgb": tmp_path / "gtad.json"}
    write_report(
        tmp_path / "r.html", "demo", files.rows, files.detections, files.annotations, "test", recalls=recalls
    )
    text = (tmp_path / "r.html").read_text()
    assert "What proposals find" in text and "tIoU 0.5 to 0.95. gtad-rgb: " in text
    write_json(tmp_path / "gtad.json", {"recall": [1.0]})
    with pytest.raises(InputError, match=r"gtad\.json: holds no recall of proposals"):
        load_curves(recalls)


def test_what_is_compared_with_what() -> None:
    def result(name: str, streams: str, fusion: str = "", average: float = 0.5, **more: object) -> Result:
        row = ResultRow(name, "muses", streams.split("+"), fusion, {}, **more)
        ap = np.full((1, 1), average)
        return Result(row, (0.5,), (0,), ap, ap, ("a",), {})

    results = [
        result("rgb", "rgb"),
        result("flow", "flow", average=0.6),
        result("concat", "rgb+audio", "concat"),
        result("aligned", "rgb+audio_fine", "aligned"),
        result("elsewhere", "rgb+audio", "concat", proposals="gtad"),
        result("both", "rgb+flow", "scores", members=["rgb", "flow", "nowhere"]),
        result("control", "rgb+audio", "concat", control=True),
    ]
    assert [(one.row.experiment, other.row.experiment, what) for one, other, what in pairs(results)] == [
        ("concat", "rgb", SOUND_HELPS),
        ("aligned", "rgb", SOUND_HELPS),
        ("aligned", "concat", SCHEME_HELPS),
        ("both", "flow", DECISION_HELPS),
    ]


def test_the_page_says_what_it_is_and_what_was_found(page: str) -> None:
    assert "Synthetic videos; backbones were trained on &lt;their own&gt; clips." in page
    # mean of the seeds: (100 + 33.33) / 2
    assert "<b>muses-rgb+audio</b> does best: 66.7 mAP@0.5, 33.3 points above the best single stream" in page
    assert "subset &#x27;test&#x27;, 3 videos, 3 instances of 2 classes" in page
    assert "<dt>flow</dt><dd>dis</dd>" in page and "AVFusion 0" in page


def test_a_note_that_all_rows_share_stands_below_the_table(files: Files, page: str, tmp_path: Path) -> None:
    def table(*notes: str) -> str:
        rows = [replace(row, note=note) for row, note in zip(files.rows, notes, strict=True)]
        write_report(tmp_path / "r.html", "demo", rows, files.detections, files.annotations, "test")
        return (tmp_path / "r.html").read_text()

    assert "<th>note</th>" not in page and "All rows" not in page
    assert "All rows: random weights." in table(*["random weights"] * 3)
    different = table("", "random weights", "")
    assert "<th>note</th>" in different and "<td>random weights</td>" in different


def test_equal_inputs_give_equal_bytes(files: Files, page: str, tmp_path: Path) -> None:
    # in a process of its own: ids that depend on hash seeds or addresses would differ
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_report\n"
        "from report_files import write_files; from pathlib import Path\n"
        "files = write_files(Path(sys.argv[2]), **test_report.EXPERIMENTS)\n"
        "test_report.write(Path(sys.argv[2]) / 'again.html', files)"
    )
    here = Path(__file__).parent
    environment = {"PYTHONPATH": f"{here.parent}:{here.parents[1] / 'src'}", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", program, str(here), str(tmp_path)], env=environment, check=True)
    assert (tmp_path / "again.html").read_text() == page


def test_pictures_are_written_one_by_one(files: Files, tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.svg" for name in ("mAP", "timeline")}
    write_figures(paths, files.rows, files.detections, files.annotations, "test")
    assert all(ElementTree.parse(path).getroot().tag.endswith("svg") for path in paths.values())
    with pytest.raises(ValueError, match="no picture 'pie'"):
        write_figures({"pie": tmp_path / "x.svg"}, files.rows, files.detections, files.annotations, "test")


def test_without_two_experiments_that_differ_in_audio_the_picture_says_so(tmp_path: Path) -> None:
    files = write_files(tmp_path, rgb=[POOR], audio=[GOOD])
    write_figures({"audio": tmp_path / "audio.svg"}, files.rows, files.detections, files.annotations, "test")
    assert "No two experiments differ in audio alone." in (tmp_path / "audio.svg").read_text()


def test_audio_pairs_differ_in_audio_alone(tmp_path: Path) -> None:
    names = ("rgb", "flow", "audio", "rgb_audio", "rgb_flow_audio")
    files = write_files(tmp_path, **{name: [GOOD] for name in names})
    pairs = audio_pairs(load_results(files.rows))
    assert [(a.row.experiment, b.row.experiment) for a, b in pairs] == [("muses-rgb", "muses-rgb+audio")]


def test_detections_of_every_experiment_are_needed(files: Files, tmp_path: Path) -> None:
    without = {name: path for name, path in files.detections.items() if name != "muses-audio"}
    with pytest.raises(InputError, match="no detections of muses-audio"):
        write_report(tmp_path / "r.html", "demo", files.rows, without, files.annotations, "test")
    assert not (tmp_path / "r.html").exists()


def test_every_kind_of_mistake_is_told_apart() -> None:
    rows = [
        ("b", "clap", 2.0, 6.0, 0.9),  # right
        ("b", "clap", 2.0, 5.0, 0.8),  # the same one again
        ("b", "clap", 10.0, 14.0, 0.7),  # that was a hop
        ("a", "hop", 7.0, 20.0, 0.6),  # tIoU 2 / 15
        ("a", "clap", 15.0, 18.0, 0.5),  # nothing there
        ("empty", "clap", 1.0, 2.0, 0.4),
        ("t", "clap", 1.0, 2.0, 9.0),  # of the training subset: not looked at
    ]
    truth = annotations().subset("test")
    kinds = [
        *(Outcome.FOUND, Outcome.DUPLICATE, Outcome.CLASS),
        *(Outcome.BOUNDARIES, Outcome.BACKGROUND, Outcome.BACKGROUND),
    ]
    for first in range(4):
        judged = judge(detections([*rows[:1], *rows[1 + first : 3 + first], rows[6]]), truth)
        assert judged.outcome.tolist() == [kinds[0], *kinds[1 + first : 3 + first]]
    assert judge(detections(rows), truth).counts() == [1, 0, 1, 1, 0]  # as many as there are instances: 3


def test_a_second_choice_is_taken_when_the_best_instance_is_gone() -> None:
    rows = [("b", "hop", 10.0, 14.0, 0.9), ("b", "hop", 9.0, 14.0, 0.8)]
    truth = annotations().subset("test")
    assert judge(detections(rows), truth).outcome.tolist() == [Outcome.FOUND, Outcome.DUPLICATE]
    assert judge(detections(rows), truth, tiou=0.9).outcome.tolist() == [Outcome.FOUND, Outcome.BOUNDARIES]


def test_videos_with_most_classes_are_shown_first() -> None:
    assert pick_videos(annotations().subset("test"), 2) == ["b", "a"]


def test_text_is_readable_on_every_colour_of_the_palettes() -> None:
    from matplotlib.colors import to_rgb

    def luminance(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    for colour in (*style.CLASS_COLOURS, style.OTHER, *style.OUTCOME_COLOURS):
        low, high = sorted((luminance(colour), luminance(style.readable_on(colour))))
        assert (high + 0.05) / (low + 0.05) >= 3, colour


def test_a_module_that_only_reads_tables_does_not_load_the_plotting_library() -> None:
    code = "import avfusion.report.html, avfusion.report.table, sys; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
