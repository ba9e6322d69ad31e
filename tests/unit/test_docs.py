"""The documentation keeps its word: links lead somewhere, and what it tells to type can be typed."""

import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from report_files import GOOD, POOR, annotations, detections, write_files

from avfusion.cli.main import build_parser
from avfusion.data.annotations import write_annotations
from avfusion.data.detections import write_detections
from avfusion.data.features import FeatureWriter, TimeAxis, VideoFeatures
from avfusion.data.manifest import ManifestRow, write_manifest
from avfusion.data.proposals import write_proposals
from avfusion.data.scores import ProposalScores, write_scores
from avfusion.report.table import write_table

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("config/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Anchors that headings of a Markdown page get."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+://", target):
            file, _, anchor = target.partition("#")
            found = (page.parent / file).resolve() if file else page
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    typed = re.findall(r"`make ([a-z-]+)", text) + re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)
    assert set(typed) <= targets


def commands() -> list[str]:
    """What the pages tell to type that begins with `avfusion`, in blocks and in the text."""
    found: dict[str, None] = {}
    for page in PAGES:
        text = page.read_text()
        blocks = "\n".join(code for language, code in FENCE.findall(text) if language in ("", "sh"))
        found |= dict.fromkeys(re.findall(r"^avfusion .*$", blocks, re.MULTILINE))
        found |= dict.fromkeys(re.findall(r"`(avfusion [a-z][^`]*)`", FENCE.sub("", text)))
    return list(found)


@pytest.mark.parametrize("command", commands())
def test_commands_can_be_typed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, name, *arguments = shlex.split(command.replace("npy|muses|pgcn|gtad", "npy"))
    try:
        build_parser().parse_args([name, *arguments] if arguments else [name, "--help"])
    except SystemExit as end:  # --help ends well
        assert end.code == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_named_is_there(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for name in set(re.findall(r"`(avfusion(?:\.\w+)+)`", text)):
        assert found_in_package(name), f"there is no {name}"
    for path in set(
        re.findall(r"`((?:src|csrc|tests|docs|rules|workflow|benchmarks|profiles|envs)/[^`\s]*)`", text)
    ):
        if not re.search(r"[A-Z{*]", path):  # NAME, {cpp,h} and jobs/*.tsv stand for others
            assert (ROOT / path).exists(), f"there is no {path}"


def found_in_package(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def write_dataset(folder: Path) -> None:
    """A finished dataset `demo` in `folder`, as far as the documentation reads its files."""
    demo = folder / "results" / "demo"
    files = write_files(demo, rgb=[POOR], audio=[GOOD])
    write_table(demo / "mAP.tsv", files.rows)
    write_annotations(demo / "annotations.json", annotations())
    write_detections(demo / "detections" / "muses-rgb" / "seed0.json", detections(POOR))
    write_manifest(demo / "manifest.tsv", [ManifestRow("b", "test", "b.mp4", 20.0, status="no video track")])
    with FeatureWriter(demo / "features" / "rgb" / "0of1.h5") as out:
        out.stream("rgb", backbone="i3d", weights="random:0")
        out.add("rgb", "b", VideoFeatures(np.zeros((3, 8), np.float32), TimeAxis(0.5, 0.25, 1.0)))
        out.absent("rgb", "a", "no video track")
    windows = np.array([[0.0, 4.0], [2.0, 6.0]])
    write_proposals(demo / "proposals" / "windows.h5", {"b": windows}, "windows")
    activity = np.array([[0, 1, 2], [0, 3, 1]], dtype=np.float32)
    rest = np.zeros((2, 2), np.float32), np.zeros((2, 2, 2), np.float32)
    scores = {"b": ProposalScores(windows, activity, *rest)}
    write_scores(demo / "scores" / "muses-rgb" / "seed0.h5", scores, annotations().labels)


def test_files_can_be_read_as_the_documentation_says(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    blocks = FENCE.findall((ROOT / "docs" / "datasets.md").read_text())
    program = "".join(code for language, code in blocks if language == "python")
    # in a process of its own, in which this package cannot be imported
    run = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['avfusion'] = None\n" + program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    for expected in (
        "b test clap 2 6",  # an instance
        "b 20.0 no video track",  # a row of the manifest
        "i3d random:0 {'a': 'no video track'}",
        "b (3, 8) 0.5 1.0",  # features, and the times of the first and the last snippet
        "windows {'b': (2, 2)}",
        "b [2. 6.]",  # the proposal with the highest score
        "muses-audio 100.00",  # a row of the table
    ):
        assert expected in lines
