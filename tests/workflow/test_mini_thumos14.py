"""A miniature THUMOS14 from its web servers to the table, with one command.

The archives have the layout, the encryption and the file names of the real ones and, where the shared data
are there, the annotation texts of these very videos. The pictures are rendered.
"""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from snakemake_runs import ROOT, Scratch, checkout
from web.mini import configure, render
from web.server import Fault, WebServer
from web.thumos14 import Rows, annotation_zip, table_rows, video_members
from web.zips import encrypted_zip

PASSWORD = "a-password-of-the-test"
# The shortest videos of both subsets, with their lengths in seconds. The last one has 'Ambiguous' lines only.
VIDEOS = {
    "val": {
        "0000190": 8.8,
        "0000854": 16.8,
        "0000986": 20.1,
        "0000950": 20.1,
        "0000689": 20.3,
        "0000982": 21.3,
    },
    "test": {
        "0000062": 14.9,
        "0000698": 17.0,
        "0001433": 19.6,
        "0000846": 27.2,
        "0000946": 27.8,
        "0001292": 8.0,
    },
}
LONG = {"val": "video_validation_", "test": "video_test_"}
MEDIA = {
    "val": "/thumos14_files/TH14_validation_set_mp4.zip",
    "test": "/thumos14_files/TH14_Test_set_mp4.zip",
}
TEXTS = {
    "val": "/THUMOS14/Validation_set/TH14_Temporal_annotations_validation.zip",
    "test": "/THUMOS14/test_set/TH14_Temporal_annotations_test.zip",
}


@dataclass
class Thumos14:
    """A checkout that is told to take THUMOS14 from a server of ours."""

    scratch: Scratch
    server: WebServer
    config: Path

    def change(self, old: str, new: str) -> None:
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))


def rows_of(subset: str) -> Rows:
    """Annotations of the videos of a subset: the real ones if they are there, else some like them."""
    names = {LONG[subset] + number for number in VIDEOS[subset]}
    shared = os.environ.get("AVFUSION_SHARED")
    if shared and Path(shared).is_dir():
        table = Path(shared) / "thumos14" / "annotations" / f"{subset}_Annotation.csv"
        return [row for row in table_rows(table) if row[0] in names]
    labels = ("CliffDiving", "Diving", "LongJump")
    rows = [(v, label, f"{2 + k}.5", f"{4 + k}.5") for k, label in enumerate(labels) for v in sorted(names)]
    return [row for row in rows if not row[0].endswith("1292")] + [
        ("video_test_0001292", "Ambiguous", "1", "2")
    ]


@pytest.fixture(scope="module")
def thumos14(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumos14]:
    folder = tmp_path_factory.mktemp("thumos14")
    scratch = checkout(folder)
    with WebServer() as server:
        for subset, videos in VIDEOS.items():
            content = {
                LONG[subset] + number: render(folder / f"{number}.mp4", seconds, int(number))
                for number, seconds in videos.items()
            }
            archive = encrypted_zip(video_members(content, subset), PASSWORD.encode())
            server.put(MEDIA[subset], archive)
            server.put(TEXTS[subset], annotation_zip(rows_of(subset), subset))
        shipped = yaml.safe_load((ROOT / "config" / "datasets" / "thumos14.yaml").read_text())
        shipped["media"]["archives"] = [server.url(MEDIA[subset]) for subset in VIDEOS]
        shipped["annotations"]["path"] = [server.url(TEXTS[subset]) for subset in VIDEOS]
        changes = {key: shipped[key] for key in ("media", "annotations", "subsets", "title")}
        yield Thumos14(scratch, server, configure(scratch, "thumos14", changes))


def test_nothing_is_fetched_before_the_terms_are_accepted(thumos14: Thumos14) -> None:
    output = thumos14.scratch.run("resources/thumos14/media/0of2.tsv", fails=True)
    message = (
        "avfusion: error: config/datasets/thumos14.yaml: media.accept_terms: read the terms at"
        " https://www.crcv.ucf.edu/THUMOS14/download.html; if you accept them, write `accept_terms: true`"
    )
    assert [line for line in output.splitlines() if line.startswith(message)]
    assert not thumos14.server.sent(MEDIA["val"])
    thumos14.change("accept_terms: false", "accept_terms: true")


def test_a_password_is_asked_for_in_one_line(thumos14: Thumos14) -> None:
    for before, after, words in (
        ("password: null", "password: guess", "is encrypted: give the password"),
        ("password: guess", f"password: {PASSWORD}", "the password is wrong"),
    ):
        output = thumos14.scratch.run("resources/thumos14/media/0of2.tsv", fails=True)
        assert [line for line in output.splitlines() if "avfusion: error: " in line and words in line]
        thumos14.change(before, after)


def test_one_command_leads_from_the_servers_to_the_table(thumos14: Thumos14) -> None:
    thumos14.server.spoil(
        MEDIA["test"], Fault(), Fault(), Fault(cut_after=1000), Fault(cut_after=5000, reset=True)
    )
    thumos14.scratch.run("results/thumos14/mAP.tsv")
    results = thumos14.scratch.folder / "results" / "thumos14"
    with (results / "mAP.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [row["experiment"] for row in rows] == ["muses-rgb+audio-concat"]
    assert {row["videos"] for row in rows} == {"6/6"}
    assert "random weights" in rows[0]["note"]
    with (results / "manifest.tsv").open() as stream:
        manifest = list(csv.DictReader(stream, delimiter="\t"))
    assert {row["status"] for row in manifest} == {"ok"}
    assert {row["id"] for row in manifest} == {LONG[s] + number for s in VIDEOS for number in VIDEOS[s]}
    videos = thumos14.scratch.folder / "resources" / "thumos14" / "media" / "videos"
    assert {path.stem for path in videos.iterdir()} == {row["id"] for row in manifest}, (
        "only annotated videos"
    )


def test_a_second_run_has_nothing_to_do_and_the_password_is_nowhere(thumos14: Thumos14) -> None:
    thumos14.change(f"password: {PASSWORD}", "password: another")
    assert "Nothing to be done" in thumos14.scratch.run("results/thumos14/mAP.tsv")
    for path in thumos14.scratch.folder.rglob("*"):
        if path.is_file() and path != thumos14.config:
            assert PASSWORD.encode() not in path.read_bytes(), path
