"""The whole chain on the tiny dataset: what it makes, and what makes it run again."""

import csv
import json
import re
import shutil
from subprocess import TimeoutExpired

import pytest
import yaml
from avfusion.engine.checkpoint import read_checkpoint
from avfusion.files import sha256
from snakemake_runs import Scratch

NOTHING = "Nothing to be done"
TRAINED = "results/tiny/models/muses-rgb/seed0/checkpoint.pt"
COLUMNS = [
    "experiment",
    "detector",
    "streams",
    "fusion",
    "mAP@0.3",
    "mAP@0.5",
    "average",
    "spread",
    "seeds",
    "videos",
    "reference",
    "note",
    "protocol",
    "version",
]
EXPERIMENTS = {
    "muses-rgb": ("rgb", ""),
    "muses-flow": ("flow", ""),
    "muses-rgb+audio-concat": ("rgb+audio", "concat"),
    "muses-best": ("rgb+audio+flow", "scores"),
}


def table(scratch: Scratch) -> list[dict[str, str]]:
    with (scratch.folder / "results" / "tiny" / "mAP.tsv").open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def would_run(scratch: Scratch) -> dict[str, str]:
    """Rules that a dry run would run, and why; not those that only follow from others."""
    output = scratch.run("--dry-run")
    found = {}
    for rule, reason in re.findall(
        r"^(?:local)?rule (\w+):\n(?:    .*\n)*?    reason: (.*)$", output, flags=re.MULTILINE
    ):
        own = "; ".join(
            part for part in reason.split("; ") if not part.startswith("Input files updated by another job")
        )
        if own:
            found[rule] = own
    assert found or NOTHING in output
    return found


def test_the_table_has_a_row_per_experiment(tiny: Scratch) -> None:
    rows = table(tiny)
    assert list(rows[0]) == COLUMNS
    assert {row["experiment"]: (row["streams"], row["fusion"]) for row in rows} == EXPERIMENTS
    for row in rows:
        assert row["detector"] == "muses"
        assert 0 <= float(row["mAP@0.5"]) <= float(row["mAP@0.3"]) <= 100
        assert row["videos"] == "2/2"
        assert "demo-trained weights" in row["note"]
    assert rows[0]["reference"] == "20.00 -"
    assert "nobody" in rows[0]["note"]


def test_everything_on_the_way_is_there_to_look_at(tiny: Scratch) -> None:
    results = tiny.folder / "results" / "tiny"
    assert len((results / "manifest.tsv").read_text().splitlines()) == 1 + 5
    assert set(json.loads((results / "annotations.json").read_text())["database"]) == {
        *(f"demo_train_{index:04d}" for index in range(3)),
        *(f"demo_test_{index:04d}" for index in range(2)),
    }
    detections = json.loads((results / "detections" / "muses-best" / "seed0.json").read_text())
    assert set(detections["results"]) == {"demo_test_0000", "demo_test_0001"}
    assert (results / "models" / "muses-rgb" / "seed0" / "training.csv").read_text().count("\n") > 1
    assert "<svg" in (results / "report.html").read_text()
    assert "synthetic" in (results / "report.html").read_text().lower()
    assert not list(tiny.folder.glob("re*/**/.*")), "temporary files were left behind"


def test_a_second_run_has_nothing_to_do(tiny: Scratch) -> None:
    assert NOTHING in tiny.run()


def test_the_report_of_snakemake_needs_no_network(tiny: Scratch) -> None:
    tiny.run("--report", "report.zip")
    assert (tiny.folder / "report.zip").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("module", "added", "rules"),
    [
        ("evaluation/mean_ap.py", "\n# A comment.\n", set()),
        ("evaluation/mean_ap.py", "\nADDED = 1\n", {"evaluate"}),
        ("fusion/decision.py", "\nADDED = 1\n", {"fuse_scores"}),
        ("media/listing.py", "\nADDED = 1\n", {"render_videos"}),
        ("cli/main.py", "\nADDED = 1\n", set()),
    ],
)
def test_a_change_in_the_package_reruns_what_uses_it(
    tiny: Scratch, module: str, added: str, rules: set[str]
) -> None:
    path = tiny.folder / "src" / "avfusion" / module
    before = path.read_text()
    path.write_text(before + added)
    try:
        found = would_run(tiny)
    finally:
        path.write_text(before)
    assert set(found) == rules
    assert all(reason.startswith("Params have changed") for reason in found.values())


@pytest.mark.parametrize(
    ("old", "new", "rules"),
    [
        ("tiou: [0.3, 0.5]", "tiou: [0.3, 0.6]", {"evaluate"}),
        ("overlap: 0.75", "overlap: 0.5", {"windows"}),
        ("flow: dis", "flow: tvl1", {"train_backbone"}),
        ("title: Tiny", "title: Small", {"report"}),
    ],
)
def test_a_change_of_the_configuration_reruns_what_depends_on_it(
    tiny: Scratch, old: str, new: str, rules: set[str]
) -> None:
    path = tiny.folder / "config" / "datasets" / "tiny.yaml"
    before = path.read_text()
    path.write_text(before.replace(old, new, 1))
    try:
        found = would_run(tiny)
    finally:
        path.write_text(before)
    assert set(found) == rules


@pytest.mark.slow
def test_the_table_does_not_depend_on_the_number_of_cores(tiny: Scratch, fresh: Scratch) -> None:
    fresh.options = ("--cores", "1")
    fresh.run("results/tiny/mAP.tsv")
    assert table(fresh) == table(tiny)
    checksums = "results/tiny/features/rgb/0of2.h5", "results/tiny/models/muses-rgb/seed0/checkpoint.pt"
    for name in checksums:
        assert (fresh.folder / name).read_bytes() == (tiny.folder / name).read_bytes()


@pytest.mark.slow
def test_killing_the_whole_chain_again_and_again_ends_with_the_same_table(
    tiny: Scratch, fresh: Scratch
) -> None:
    for seconds in (3, 6, 9, 12, 15):
        process = fresh.start("results/tiny/mAP.tsv")
        try:
            process.wait(timeout=seconds)
        except TimeoutExpired:
            process.kill()
            process.wait()
    fresh.run("results/tiny/mAP.tsv")
    assert table(fresh) == table(tiny)
    assert NOTHING in fresh.run("results/tiny/mAP.tsv")


def own_dataset(tiny: Scratch) -> None:
    """A dataset of somebody's own: the rendered videos in a folder, one of them cut short and one gone."""
    folder = tiny.folder / "own"
    shutil.copytree(tiny.folder / "resources" / "tiny" / "media" / "videos", folder / "videos")
    spoilt = folder / "videos" / "demo_train_0000.mp4"
    spoilt.write_bytes(spoilt.read_bytes()[:50_000])
    (folder / "videos" / "demo_train_0001.mp4").unlink()
    shutil.copy(tiny.folder / "results" / "tiny" / "annotations.json", folder)
    datasets = tiny.folder / "config" / "datasets"
    options = yaml.safe_load((datasets / "tiny.yaml").read_text().replace("trained", "random:0"))
    options |= {
        "media": {"source": "folder", "path": "own/videos"},
        "annotations": "own/annotations.json",
        "shards": 1,
        "experiments": {"muses-audio": None, "muses-rgb": None},
        "initial": {"muses-rgb": TRAINED},
    }
    (datasets / "own.yaml").write_text(yaml.safe_dump(options))


def test_a_folder_of_videos_with_bad_ones_in_it(tiny: Scratch) -> None:
    own_dataset(tiny)
    tiny.run("results/own/mAP.tsv")
    with (tiny.folder / "results" / "own" / "manifest.tsv").open() as stream:
        status = {row["id"]: row["status"] for row in csv.DictReader(stream, delimiter="\t")}
    assert status["demo_train_0000"].startswith("truncated")
    assert status["demo_train_0001"] == "no file"
    assert {status[f"demo_test_000{index}"] for index in range(2)} == {"ok"}
    with (tiny.folder / "results" / "own" / "mAP.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert rows[0]["note"] == "random weights"
    assert rows[1]["note"] == "random weights; trained from a checkpoint: muses-rgb"
    begun = read_checkpoint(tiny.folder / TRAINED.replace("tiny", "own"))
    assert begun.config["initial"] == f"sha256:{sha256(tiny.folder / TRAINED)}"
    assert NOTHING in tiny.run("results/own/mAP.tsv")
