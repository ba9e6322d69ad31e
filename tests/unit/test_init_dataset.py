"""A dataset of one's own: what is found, what is refused, and a configuration that passes its schema."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from web.mini import render

from avfusion.cli.main import main
from avfusion.config import load_workflow
from avfusion.data.annotations import Annotations, Instance, VideoAnnotation, read_annotations
from avfusion.data.splitting import split
from avfusion.media.own_dataset import window_lengths
from avfusion.schema import read_yaml

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "config" / "schemas"


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of five seconds, one of which is broken, and one described in another encoding than UTF-8."""
    folder = tmp_path_factory.mktemp("clips")
    for k in range(5):
        render(folder / f"clip{k}.mp4", 5.0, k)
    content = (folder / "clip0.mp4").read_bytes()
    assert b"synthetic" in content
    (folder / "clip0.mp4").write_bytes(content.replace(b"synthetic", b"synth\xe9tic"))
    (folder / "deep").mkdir()
    (folder / "deep" / "clip5.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a workflow, in which the command is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config" / "datasets").mkdir(parents=True)
    (tmp_path / "config" / "experiments.yaml").write_text((ROOT / "config" / "experiments.yaml").read_text())
    return tmp_path


def table(folder: Path, *rows: str, header: str = "video,label,start,end") -> Path:
    path = folder / "mine.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def run(clips: Path, path: Path, *more: str) -> int:
    return main(["init-dataset", "mine", "--videos", str(clips), "--annotations", str(path), *more])


ROWS = [
    f"clip{k},{label},{k / 10 + n},{k / 10 + n + 1.2}"
    for k in range(5)
    for n, label in enumerate(("Run", "Hop"))
]


def test_from_clips_and_a_table_to_a_configuration_that_is_valid(
    clips: Path, workflow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(clips, table(workflow, *ROWS, "clip5,Run,0:00:01,0:02", "lost,Run,1,2"), "--weights", "random:0")
        == 0
    )
    told = capsys.readouterr().out
    assert "6 videos (0.01 h, 0 without sound), 11 instances of 2 classes" in told
    assert "instances last 1.2 s (median)" in told
    assert "subsets dealt by seed: train 4 videos, test 2 videos" in told
    assert "note: 1 annotated videos have no file and are left out: lost (line 13)" in told
    assert "note: 1 files cannot be opened and will be left out: clip5" in told
    assert "snakemake --cores all results/mine/mAP.tsv" in told
    config = load_workflow({"default": ["mine"]}, SCHEMAS)
    mine = config.datasets["mine"]
    assert list(mine["experiments"]) == ["muses-rgb", "muses-audio", "muses-rgb+audio-concat"]
    assert mine["streams"]["rgb"]["weights"] == "random:0"
    annotations = read_annotations(mine["annotations"])
    assert annotations.subsets == {"train": 4, "test": 2}
    assert annotations.videos["clip0"].duration == pytest.approx(5.0, abs=0.2)
    assert mine["proposals"]["windows"]["lengths"][0] <= 1.2


def test_it_does_not_replace_what_is_there(
    clips: Path, workflow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(workflow, *ROWS)
    assert run(clips, path) == 0
    assert run(clips, path) == 1
    assert "mine.yaml: is there already: choose another name, or say --force" in capsys.readouterr().err
    assert run(clips, path, "--force", "--streams", "rgb,flow,audio") == 0
    streams = read_yaml("config/datasets/mine.yaml")["streams"]
    assert streams["flow"]["weights"] == "published:i3d_flow"
    assert set(load_workflow({"default": ["mine"]}, SCHEMAS).datasets["mine"]["experiments"]) >= {
        "muses-best"
    }


def test_subsets_of_the_annotations_are_kept(
    clips: Path, workflow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = {
        f"clip{k}": {
            "subset": s,
            "annotations": [{"label": "Run", "segment": [1, 2]}] if s != "testing" else [],
        }
        for k, s in enumerate(("training", "training", "validation", "testing"))
    }
    path = workflow / "mine.json"
    path.write_text(json.dumps({"database": database}))
    assert run(clips, path) == 0
    assert read_yaml("config/datasets/mine.yaml")["subsets"] == {"train": "training", "test": "validation"}
    told = capsys.readouterr().out
    assert "subsets as the annotations say: training 2 videos, validation 1 videos" in told
    assert "note: 2 files have no annotations and are not used: clip4, clip5" in told


def test_all_problems_are_told_at_once_each_with_its_line(
    clips: Path, workflow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = tmp_path / "videos"
    (twice / "b").mkdir(parents=True)
    for name in ("clip0.mp4", "clip1.mp4", "clip2.mp4", "b/clip0.mp4"):
        (twice / name).write_bytes((clips / f"clip{name[-5]}.mp4").read_bytes())
    path = table(
        workflow,
        "clip0,Run,1,2,train",
        "clip1,run ,1,2,test",
        "clip0,Run,3,4,test",
        "clip2,Run,4,3,test",
        header="video,label,start,end,subset",
    )
    with path.open("ab") as stream:
        stream.write("clip2,Tür,1,2,test\n".encode("latin-1"))
    assert run(twice, path) == 1
    told = capsys.readouterr()
    lines = [line for line in told.out.splitlines() if line.startswith("problem: ")]
    assert lines == [
        f"problem: {twice}: clip0: b/clip0.mp4 and clip0.mp4 both claim to be it",
        f"problem: {path}: line 6: is not UTF-8 text (byte 0xfc): save the file as UTF-8",
        f"problem: {path}: line 4: the video 'clip0' is in subset 'test' here, and in 'train' above",
        f"problem: {path}: line 5: the segment ends at 3 s, before it starts at 4 s",
        f"problem: {path}: labels: are these one class? 'Run' (2 times, first on line 2), 'run' (1 times,"
        " first on line 3): write it in one way",
    ]
    assert f"error: {path}: 5 problems (see above); nothing has been written" in told.err
    assert not list((workflow / "config" / "datasets").iterdir())


def test_ids_that_two_entries_of_a_json_share(
    clips: Path, workflow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = workflow / "mine.json"
    entry = '"clip0": {"annotations": []}'
    path.write_text(f'{{"database": {{\n{entry},\n{entry}}}}}')
    assert run(clips, path) == 1
    assert (
        f"problem: {path}: line 3: the key 'database.clip0' stands here a second time"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        (
            ["other,Run,1,2"],
            "video,label,start,end",
            "no annotated video has a file ('other' is annotated, the folder",
        ),
        (
            ["clip0,Run,1,2,a", "clip1,Run,1,2,b"],
            "video,label,start,end,subset",
            "needs a subset 'train' and a subset",
        ),
        (
            ["clip0,Run,1,2,train", "clip1,Run,1,2,"],
            "video,label,start,end,subset",
            "1 videos name no subset, the",
        ),
        (["clip0,Run,1,2"], "video,label,start,end", "one video cannot be split"),
    ],
)
def test_what_cannot_become_a_dataset(
    clips: Path, workflow: Path, capsys: pytest.CaptureFixture[str], rows: list[str], header: str, words: str
) -> None:
    assert run(clips, table(workflow, *rows, header=header)) == 1
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a b", "--videos", ".", "--annotations", "x"], "NAME: 'a b' must consist of letters"),
        (["mine", "--videos", "nowhere", "--annotations", "x"], "nowhere: there is no such folder"),
        (["mine", "--videos", "config", "--annotations", "x"], "config: holds no video"),
        (
            ["mine", "--videos", ".", "--annotations", "x", "--streams", "rbg"],
            "there is no stream 'rbg'; did you mean",
        ),
    ],
)
def test_arguments_that_are_wrong(
    workflow: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["init-dataset", *arguments]) == 1
    assert words in capsys.readouterr().err


def test_elsewhere_than_in_a_workflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init-dataset", "mine", "--videos", ".", "--annotations", "x"]) == 1
    assert "run this in the folder of the workflow" in capsys.readouterr().err


def many(counts: dict[str, int]) -> Annotations:
    videos = {
        f"{label or 'none'}{k}": VideoAnnotation("", None, (Instance(0, 1, label),) if label else ())
        for label, count in counts.items()
        for k in range(count)
    }
    return Annotations(videos, tuple(sorted(counts)))


def test_a_split_is_stratified_and_follows_its_seed() -> None:
    counts = {"often": 100, "rare": 8, "twice": 2, "": 20}
    first, again, other = (split(many(counts), 0.25, seed) for seed in (0, 0, 1))
    assert first == again and first != other
    test = Counter(name.rstrip("0123456789") for name in first.subset("test").videos)
    assert test == {"often": 25, "rare": 2, "twice": 1, "none": 5}
    assert set(first.subset("train").videos).isdisjoint(first.subset("test").videos)


def test_a_split_with_several_classes_per_video() -> None:
    videos = {
        f"v{k}": VideoAnnotation(
            "", None, tuple(Instance(0, 1, c) for c in "abc" if (k >> "abc".index(c)) & 1)
        )
        for k in range(80)
    }
    dealt = split(Annotations(videos, tuple("abc")), 0.3, 0)
    share = len(dealt.subset("test").videos) / len(videos)
    assert abs(share - 0.3) < 0.05
    for label in "abc":
        with_label = [v for v in dealt.videos.values() if any(i.label == label for i in v.instances)]
        assert abs(sum(v.subset == "test" for v in with_label) / len(with_label) - 0.3) < 0.07


def test_windows_cover_the_instances() -> None:
    lengths = window_lengths(
        Annotations(
            {"v": VideoAnnotation("", None, tuple(Instance(0, 1 + k / 2, "a") for k in range(20)))}, ("a",)
        )
    )
    assert lengths[0] < 2 and lengths[-1] >= 10
    assert all(b / a < 1.6 for a, b in pairwise(lengths))
    assert window_lengths(many({"a": 3})) == [1.0]
