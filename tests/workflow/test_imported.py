"""Features that somebody else extracted, in place of media: from a folder of arrays to the table."""

import csv
import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from snakemake_runs import Scratch

DATASET = """
media: {source: none}
annotations: given/annotations.json
shards: 2
tiou: [0.5]
device: cpu
streams:
  rgb: {features: {source: import, path: given/rgb, layout: CT, unit: seconds, stride: 0.5, window: 1}}
  audio: {features: {source: import, path: given/audio.h5, unit: video}}
proposals: {list: [given/train.txt, given/test.txt]}
detectors:
  muses: {backbone_dims: [8, 8], hidden: 8, training: {epochs: 1, passes: 2, accumulate: 1}}
  gtad:
    temporal_scale: 16
    max_duration: 8
    hidden_1d: 8
    hidden_2d: 8
    hidden_3d: 8
    groups: 2
    classifier: linear
    training: {epochs: 1}
  pgcn: {hidden: 8, training: {epochs: 1, passes: 2}}
experiments:
  muses-rgb+audio-aligned-gtad:
  pgcn-rgb-list:
  gtad-rgb+audio-aligned:
"""
EXPERIMENTS = """
gtad-rgb+audio-aligned: {detector: gtad, streams: [rgb, audio], fusion: aligned}
muses-rgb+audio-aligned-gtad:
  {detector: muses, streams: [rgb, audio], fusion: aligned, proposals: gtad-rgb+audio-aligned}
pgcn-rgb-list: {detector: pgcn, streams: [rgb], proposals: list}
"""
# A video of a proposal list: id, frames, rate, instances, proposals (label, best IoU, overlap, start, end).
LISTED = """# {index}
{video}
300
1
3
1 50 100
2 125 175
3 200 250
4
1 0.9 0.9 52 98
2 0.8 0.8 120 175
0 0.2 0.5 90 110
0 0.0 0.0 0 40
"""


def test_imported_features_lead_to_a_table(fresh: Scratch) -> None:
    config, given = fresh.folder / "config", fresh.folder / "given"
    shutil.rmtree(config / "datasets")
    (given / "rgb").mkdir(parents=True)
    (config / "datasets").mkdir()
    (config / "datasets" / "mine.yaml").write_text(DATASET)
    (config / "experiments.yaml").write_text(EXPERIMENTS)
    rng = np.random.RandomState(0)
    database = {}
    with h5py.File(given / "audio.h5", "w") as audio:
        for index in range(6):
            name = f"v{index}"
            subset = "train" if index < 4 else "test"
            instances = [{"label": "abc"[k], "segment": [2.0 + 3 * k, 4.0 + 3 * k]} for k in range(3)]
            database[name] = {"subset": subset, "duration": 12.0, "annotations": instances}
            if index != 5:  # which nobody has extracted
                np.save(given / "rgb" / f"{name}.npy", rng.standard_normal((12, 24)).astype(np.float32))
            audio[name] = rng.standard_normal((10, 4)).astype(np.float32)
    (given / "annotations.json").write_text(json.dumps({"database": database}))
    for name, videos in (("train", range(4)), ("test", range(4, 6))):
        text = "".join(LISTED.format(index=k + 1, video=f"v{v}") for k, v in enumerate(videos))
        (given / f"{name}.txt").write_text(text)
    fresh.run("--config", "default=[mine]")
    results = fresh.folder / "results" / "mine"
    with (results / "mAP.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [(row["experiment"], row["videos"]) for row in rows] == [
        ("muses-rgb+audio-aligned-gtad", "1/2"),
        ("pgcn-rgb-list", "1/2"),
        ("gtad-rgb+audio-aligned", "1/2"),
    ]
    with h5py.File(results / "proposals" / "list.h5") as file:
        assert file["v4"][0].tolist() == pytest.approx([52 / 25, 98 / 25])
    with h5py.File(results / "features" / "rgb" / "0of2.h5") as file:
        assert file["rgb"]["v4"].shape == (24, 12)
        assert file["rgb"]["v4"].attrs["stride"] == 0.5
    with h5py.File(results / "features" / "rgb" / "1of2.h5") as file:
        assert list(json.loads(file["rgb"].attrs["absent"])) == ["v5"]
    assert "What proposals find" in (results / "report.html").read_text()
    check_released(fresh, rows)


def check_released(scratch: Scratch, before: list[dict[str, str]]) -> None:
    """The same detector, as somebody else would have released it, gives the same row without training."""
    results = scratch.folder / "results" / "mine"
    detections = results / "detections" / "pgcn-rgb-list" / "seed0.json"
    found = detections.read_text()
    trained = torch.load(results / "models" / "pgcn-rgb-list" / "seed0" / "checkpoint.pt", weights_only=True)
    released = {
        "epoch": 1,
        "state_dict": {f"module.{name}": value for name, value in trained["state_dict"].items()},
        "best_loss": 0.5,
        "reg_stats": trained["reg_stats"],
    }
    torch.save(released, scratch.folder / "given" / "released.pth.tar")
    dataset = scratch.folder / "config" / "datasets" / "mine.yaml"
    dataset.write_text(f"{dataset.read_text()}checkpoints: {{pgcn-rgb-list: given/released.pth.tar}}\n")
    output = scratch.run("--config", "default=[mine]")
    assert "rule import_checkpoint:" in output and "rule train:" not in output
    with (results / "mAP.tsv").open() as stream:
        after = list(csv.DictReader(stream, delimiter="\t"))
    assert detections.read_text() == found and '"score"' in found
    notes = [row.pop("note") for row in after]
    assert after == [{key: value for key, value in row.items() if key != "note"} for row in before]
    assert notes[1] == "proposals: a list; released weights: pgcn-rgb-list"
