"""A dataset of one's own, as docs/your-own-videos.md has it: from a folder of clips to the table."""

import csv
import subprocess
import sys
from pathlib import Path

import yaml
from snakemake_runs import checkout
from web.mini import render


def test_two_commands_lead_from_clips_to_the_table(tmp_path: Path) -> None:
    scratch = checkout(tmp_path / "workflow")
    clips = tmp_path / "my clips"
    for k in range(6):
        (clips / f"day{k % 2}").mkdir(parents=True, exist_ok=True)
        render(clips / f"day{k % 2}" / f"clip {k}.mp4", 7.0, k)
    rows = [
        f"clip {k},{label},0:0{n + 1},0:0{n + 2}.5"
        for k in range(6)
        for n, label in enumerate(("Run", "Hop"))
    ]
    (tmp_path / "clips.csv").write_text("\n".join(["video,label,start,end", *rows, ""]))
    command = (sys.executable, "-m", "avfusion", "init-dataset", "mine")
    options = ("--videos", str(clips), "--annotations", str(tmp_path / "clips.csv"), "--weights", "random:0")
    subprocess.run([*command, *options], cwd=scratch.folder, check=True)

    # The networks that it names are those of the papers; in this test they are tiny.
    path = scratch.folder / "config" / "datasets" / "mine.yaml"
    config = yaml.safe_load(path.read_text())
    config["streams"]["rgb"] |= {
        "width": 0.0625,
        "fps": 8,
        "window": 8,
        "stride": 4,
        "size": 32,
        "short_side": 32,
    }
    config["streams"]["audio"] |= {"width": 0.0625}
    tiny = yaml.safe_load((scratch.folder / "config" / "datasets" / "tiny.yaml").read_text())
    config |= {"detectors": tiny["detectors"], "device": "cpu"}
    config["experiments"] = {"muses-rgb+audio-concat": None}
    path.write_text(yaml.safe_dump(config))

    scratch.run("results/mine/mAP.tsv")
    with (scratch.folder / "results" / "mine" / "mAP.tsv").open() as stream:
        (row,) = csv.DictReader(stream, delimiter="\t")
    assert row["videos"] == "2/2"
    assert "random weights" in row["note"]


def test_annotations_that_are_wrong_stop_the_workflow_before_anything_expensive(tmp_path: Path) -> None:
    scratch = checkout(tmp_path)
    path = scratch.folder / "config" / "datasets" / "tiny.yaml"
    config = yaml.safe_load(path.read_text())
    config["media"] = {"source": "folder", "path": "videos"}
    config["annotations"] = "mine.csv"
    config.pop("backbone_training")
    for stream in config["streams"].values():
        stream["weights"] = "random:0"
    path.write_text(yaml.safe_dump(config))
    (tmp_path / "mine.csv").write_text(
        "video,label,start,end,subset\na,Run,1,2,train\na,run,1,2,test\nb,Run,2,1,test\n"
    )
    output = scratch.run("results/tiny/mAP.tsv", fails=True)
    for line in (
        "mine.csv: line 3: the video 'a' is in subset 'test' here, and in 'train' above",
        "mine.csv: line 4: the segment ends at 1 s, before it starts at 2 s",
        "mine.csv: labels: are these one class? 'Run' (1 times, first on line 2), 'run' (1 times",
    ):
        assert line in output
    assert "(and 2 more problems" in output
    assert not list((tmp_path / "resources").rglob("*.tsv"))
