"""A miniature ActivityNet, fetched by yt-dlp, from its address to the table with one command."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from avfusion.demo.config import DemoConfig
from avfusion.demo.render import render_video
from avfusion.demo.scenes import annotations, plan
from snakemake_runs import ROOT, Scratch, checkout
from web.mini import PICTURE, configure
from web.server import Fault, WebServer

CONFIG = DemoConfig(train_videos=7, test_videos=4, duration=(8.0, 9.0), **PICTURE)  # type: ignore[arg-type]
SUBSETS = {"train": "training", "test": "validation"}
GONE = {"train": 1, "test": 3}  # number of the video in its subset that is gone


def identity(name: str) -> str:
    """An id as YouTube gives them, eleven characters: demo_test_0003 -> 0dk-test_03."""
    _, subset, number = name.split("_")
    return f"0dk-{subset:_<5}{int(number):02d}"


def official(fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """The annotations in the form of activity_net.v1-3.min.json, with the parts that nobody needs."""
    database = {}
    for name, video in annotations(plan(CONFIG, 3)).videos.items():
        database[identity(name)] = {
            "subset": SUBSETS[video.subset],
            "duration": video.duration,
            "url": f"https://www.youtube.com/watch?v={identity(name)}",
            "resolution": "64x48",
            "annotations": [{"segment": [i.start, i.end], "label": i.label} for i in video.instances],
        }
    for number in range(3):
        database[f"0dk-secret{number}"] = {"subset": "testing", "duration": 9.0, "annotations": []}
    return {"version": "VERSION 1.3", "taxonomy": [{"nodeId": 0}], "database": database}


@pytest.fixture(scope="module")
def activitynet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Scratch, WebServer]]:
    folder = tmp_path_factory.mktemp("activitynet")
    scratch = checkout(folder)
    with WebServer() as server:
        for index, scene in enumerate(plan(CONFIG, 3).values()):
            subset = scene.subset
            number = int(scene.id.rsplit("_", 1)[1])
            if number == GONE[subset]:
                continue
            path = folder / f"{scene.id}.mp4"
            render_video(replace(scene), path)
            server.put(f"/watch/{identity(scene.id)}", path.read_bytes(), kind="video/mp4")
            if index == 2:
                server.spoil(
                    f"/watch/{identity(scene.id)}", Fault(status=429), Fault(), Fault(cut_after=9_000)
                )
        listing = server.put("/files/activity_net.v1-3.min.json", json.dumps(official()).encode())
        shipped = yaml.safe_load((ROOT / "config" / "datasets" / "activitynet13.yaml").read_text())
        shipped["media"] |= {
            "url": server.url("/watch/{id}"),
            "format": "b",
            "accept_terms": True,
            "pause": 0.01,
            "wait": 0.1,
        }
        shipped["annotations"]["path"] = listing
        names = ("media", "annotations", "subsets", "title", "tiou")
        configure(scratch, "activitynet13", {key: shipped[key] for key in names})
        yield scratch, server


def test_one_command_leads_from_the_address_to_the_table(activitynet: tuple[Scratch, WebServer]) -> None:
    scratch, server = activitynet
    scratch.run("results/activitynet13/mAP.tsv")
    results = scratch.folder / "results" / "activitynet13"
    with (results / "mAP.tsv").open() as stream:
        (row,) = csv.DictReader(stream, delimiter="\t")
    assert row["videos"] == "3/4", "three of the four videos of the validation subset are there"
    assert [name for name in row if name.startswith("mAP@")] == [
        f"mAP@{0.5 + 0.05 * k:.4g}" for k in range(10)
    ]
    with (results / "manifest.tsv").open() as stream:
        manifest = {line["id"]: line for line in csv.DictReader(stream, delimiter="\t")}
    assert len(manifest) == CONFIG.train_videos + CONFIG.test_videos, "the testing subset is not fetched"
    gone = {identity(f"demo_{subset}_{number:04d}") for subset, number in GONE.items()}
    assert {name for name, line in manifest.items() if line["status"] != "ok"} == gone
    assert all("HTTP Error 404" in manifest[name]["status"] for name in gone)
    archive = (scratch.folder / "resources" / "activitynet13" / "media" / "archive.tsv").read_text()
    assert len(archive.splitlines()) == len(manifest)
    asked = {request.path for request in server.requests}
    assert not [path for path in asked if "secret" in path]


def test_a_folder_of_ones_own_takes_the_place_of_youtube(
    activitynet: tuple[Scratch, WebServer], tmp_path: Path
) -> None:
    scratch, server = activitynet
    path = scratch.folder / "config" / "datasets" / "activitynet13.yaml"
    config = yaml.safe_load(path.read_text())
    before = path.read_text()
    media = scratch.folder / "resources" / "activitynet13" / "media"
    (media / "videos").rename(tmp_path / "mine")
    for listing in media.iterdir():
        listing.unlink()
    config["media"] |= {"path": str(tmp_path / "mine")}
    path.write_text(yaml.safe_dump(config))
    server.requests.clear()
    try:
        scratch.run("resources/activitynet13/media/0of2.tsv", "resources/activitynet13/media/1of2.tsv")
        found = [
            line for name in ("0of2", "1of2") for line in (media / f"{name}.tsv").read_text().splitlines()[1:]
        ]
    finally:
        path.write_text(before)
    asked = {request.path for request in server.requests if request.path.startswith("/watch/")}
    assert asked == {f"/watch/{identity(f'demo_{subset}_{number:04d}')}" for subset, number in GONE.items()}
    assert sum(str(tmp_path / "mine") in line for line in found) == len(found) - 2
