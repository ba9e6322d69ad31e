"""Configuration: defaults come from the schemas, and every mistake gets one line with file and key."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from avfusion.config import describe, load_workflow, runs
from avfusion.detectors import DETECTORS
from avfusion.engine.schedule import published_training
from avfusion.errors import InputError
from avfusion.experiments import check_runs, members, needed, proposes
from avfusion.schema import complete, read_yaml

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "config" / "schemas"
EXPERIMENTS = """
rgb: {detector: muses, streams: [rgb]}
audio: {detector: muses, streams: [audio]}
both: {fuse: scores, of: [rgb, audio], weights: [1, 2]}
"""
DATASET = """
media: {source: folder, path: videos}
annotations: annotations.json
streams:
  rgb: {window: 16, stride: 8}
  audio: {}
proposals: {windows: {lengths: [1, 2]}}
experiments: {rgb: , both: }
"""


class Folder:
    """A folder of configuration files that a test changes."""

    def __init__(self, root: Path) -> None:
        self.root, self.options = root, {"default": ["clips"]}
        (root / "config" / "datasets").mkdir(parents=True)
        self.write("datasets/clips.yaml", DATASET)
        self.write("experiments.yaml", EXPERIMENTS)

    def write(self, name: str, text: str) -> None:
        (self.root / "config" / name).write_text(text)

    def load(self) -> Any:
        return load_workflow(self.options, SCHEMAS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path)


def test_defaults_come_from_the_schema(folder: Folder) -> None:
    config = folder.load()
    clips = config.datasets["clips"]
    assert clips["shards"] == 4
    assert clips["threads"] == {"features": 1, "training": 1}
    assert clips["streams"]["rgb"]["endpoint"] == "Mixed_5c"
    assert clips["experiments"]["both"]["reference"] is None
    assert config.experiments["rgb"]["fusion"] is None
    assert config.experiments["both"]["seeds"] == [0]


def test_the_shipped_configuration_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_workflow(read_yaml("config/config.yaml"), SCHEMAS)
    assert {"demo", "thumos14", "activitynet13"} <= config.datasets.keys()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "stride: 8",
            "stried: 8",
            "config/datasets/clips.yaml: streams.rgb: unknown key 'stried'; did you mean 'stride'?",
        ),
        ("{window: 16, ", "{", "config/datasets/clips.yaml: streams.rgb: the key 'window' is missing"),
        ("window: 16", "window: wide", "streams.rgb.window: must be a whole number or null, not 'wide'"),
        (
            "source: folder, path: videos",
            "source: none",
            "streams.rgb: there are no media to extract it from; name",
        ),
        (
            "{window: 16, stride: 8}",
            "{features: {path: x}}",
            "streams.rgb.features: the key 'stride' is missing, in frames",
        ),
        (
            "{window: 16, stride: 8}",
            "{features: {path: x, unit: video, window: 3}}",
            "streams.rgb.features.window: has no meaning if snippets divide the whole video",
        ),
        (
            "{window: 16, stride: 8}",
            "{features: {path: x, stride: 8}}",
            "streams.audio.grid: the snippets of 'rgb' are imported, nothing can be cut around them",
        ),
        ("window: 16", "window: 4", "streams.rgb.window: must be at least 8, not 4"),
        ("stride: 8", "stride: 8, endpoint: Mixed_4x", "streams.rgb.endpoint: must be Mixed_3b or"),
        (
            "source: folder",
            "source: foldr",
            "media.source: must be render or folder or archives or youtube or none, not 'foldr'; did",
        ),
        ("path: videos", "paht: videos", "media: unknown key 'paht'; did you mean 'path'?"),
        (
            "[1, 2]",
            "[1, 1e1]",
            "lengths[1]: must be a number, not '1e1' (YAML takes that for a text; write 1.0e+1)",
        ),
        ("[1, 2]", "[1, .inf]", "lengths[1]: must be a finite number, not inf"),
        ("[1, 2]", "[1, 1]", "lengths: names something twice: [1, 1]"),
        ("[1, 2]", "[]", "lengths: must have at least 1 entries"),
        (
            "rgb: , both: ",
            "rgb: , boht: ",
            "experiments: there is no experiment 'boht'; did you mean 'both'?",
        ),
        ("rgb: , both: ", "rgb: {reference: [50]}", "experiments.rgb.reference: 1 figures for 5 thresholds"),
        ("rgb: , both: ", "rgb: , 5: ", "experiments: the key 5 is no text; write it in quotes"),
        ("  audio: {}\n", "", "experiments.both: needs the stream 'audio', which this dataset lacks"),
        (
            "audio: {}",
            "audio: {grid: flow}",
            "streams.audio.grid: there is no stream 'flow'; known: rgb, audio",
        ),
        (
            "audio: {}",
            "audio: {weights: trained}",
            "streams.audio.weights: 'trained' is for rendered videos only",
        ),
        ("annotations: annotations.json", "", "the key 'annotations' is missing"),
        (
            "annotations: annotations.json",
            "subsets: {train: test}\nannotations: a",
            "subsets: training and evaluation",
        ),
        (
            "annotations: annotations.json",
            "annotations: a\nannotations: b",
            "line 4: the key 'annotations' stands here",
        ),
        ("annotations: annotations.json", "annotations: [", "is no valid YAML"),
        (
            "experiments: {rgb: , both: }",
            "experiments: {rgb: }\ncheckpoints: {both: file.pt}",
            "checkpoints: no experiment 'both' trains a detector; known: rgb, audio",
        ),
        (
            "experiments: {rgb: , both: }",
            "experiments: {rgb: }\ninitial: {both: file.pt}",
            "initial: no experiment 'both' trains a detector; known: rgb, audio",
        ),
        (
            "experiments: {rgb: , both: }",
            "experiments: {rgb: }\ninitial: {rgb: a.pt}\ncheckpoints: {rgb: b.pt}",
            "initial.rgb: stands among 'checkpoints' as well: it is not trained",
        ),
        (
            "{windows: {lengths: [1, 2]}}",
            "{source: list}",
            "proposals.list: 'rgb' scores listed proposals: name the files",
        ),
        (
            "{windows: {lengths: [1, 2]}}",
            "{}",
            "proposals.windows: 'rgb' scores windows: say which ('lengths')",
        ),
        (
            "{windows: {lengths: [1, 2]}}",
            "{source: both}",
            "proposals.source: 'both' makes no proposals; name an experiment with detector gtad",
        ),
        (
            "experiments: {rgb: , both: }",
            "experiments: {rgb: }\nfull: {experiments: {rgb: }}",
            "full.experiments.rgb: stands among 'experiments' already",
        ),
        ("  audio: {}", "  adio: {}", "streams: must be rgb, flow, audio or audio_..., not 'adio'"),
        (DATASET, "just words", "must be a mapping (key: value), not 'just words'"),
    ],
)
def test_one_line_for_every_mistake_in_a_dataset(folder: Folder, old: str, new: str, message: str) -> None:
    assert old in DATASET
    folder.write("datasets/clips.yaml", DATASET.replace(old, new))
    with pytest.raises(InputError) as caught:
        folder.load()
    assert message in str(caught.value)
    assert str(caught.value).startswith("config/datasets/clips.yaml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "detector: muses",
            "detector: museum",
            "rgb.detector: must be muses or pgcn or gtad, not 'museum'; did you mean 'muses'?",
        ),
        ("streams: [rgb]", "stream: [rgb]", "rgb: unknown key 'stream'; did you mean 'streams'?"),
        ("streams: [rgb]", "streams: [rgb, audio]", "rgb: sound needs a fusion with what is seen"),
        ("streams: [rgb]", "streams: [rgb], fusion: concat", "rgb.fusion: there is nothing to fuse"),
        (
            "streams: [rgb]",
            "streams: [rgb], fusion: concta",
            "rgb.fusion: must be concat or dup_trim or avg_trim or rm_attention or aligned or",
        ),
        (
            "of: [rgb, audio]",
            "of: [rgb, adio]",
            "both.of[1]: there is no experiment 'adio'; did you mean 'audio'?",
        ),
        ("of: [rgb, audio]", "of: [rgb, both]", "both: is made of itself (both -> both)"),
        ("weights: [1, 2]", "weights: [1]", "both.weights: 1 weights for 2 experiments"),
        ("weights: [1, 2]", "weights: [1, 0]", "both.weights[1]: must be above 0, not 0"),
        ("fuse: scores", "fuse: scors", "both.fuse: must be scores or proposals, not 'scors'; did you mean"),
        ("fuse: scores", "fuse: proposals", "both.weights: pooled proposals have no weights; leave them out"),
        (
            "streams: [rgb]",
            "streams: [audio, rgb], fusion: concat",
            "rgb.streams: one stream of sound at most",
        ),
        (
            "streams: [rgb]",
            "streams: [rgb, audio, audio_fine], fusion: concat",
            "rgb.streams: one stream of sound at most",
        ),
        (
            "streams: [rgb]",
            "streams: [rbg]",
            "rgb.streams[0]: must be rgb, flow, audio or audio_..., not 'rbg'",
        ),
        (
            "streams: [rgb]",
            "streams: [rgb, flow], fusion: aligned",
            "rgb.fusion: 'aligned' joins sound to what is seen, and there is none; use concat",
        ),
        (
            "detector: muses, streams: [rgb]",
            "detector: gtad, streams: [rgb]",
            "both.of: 'rgb' makes proposals, 'audio'",
        ),
        (
            "streams: [rgb]",
            "streams: [rgb], proposals: window",
            "rgb.proposals: there are no proposals 'window'; did you mean 'windows'?",
        ),
        (
            "streams: [rgb]",
            "streams: [rgb], proposals: audio",
            "rgb.proposals: 'audio' makes no proposals; name an experiment with detector gtad",
        ),
        (
            "detector: muses, streams: [rgb]",
            "detector: gtad, streams: [rgb], proposals: windows",
            "rgb.proposals: 'gtad' makes proposals of its own; leave this out",
        ),
        ("both:", "list:", "list: this name stands for a source of proposals; choose another"),
        ("both:", "bo th:", "bo th: a name consists of"),
    ],
)
def test_one_line_for_every_mistake_in_the_experiments(
    folder: Folder, old: str, new: str, message: str
) -> None:
    assert old in EXPERIMENTS
    folder.write("experiments.yaml", EXPERIMENTS.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        folder.load()
    assert f"config/experiments.yaml: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"default": ["clip"]},
            "default[0]: there is no dataset 'clip' in config/datasets; did you mean 'clips'?",
        ),
        ({"datasets": "nowhere"}, "datasets: there is no folder 'nowhere'"),
        ({"defualt": ["clips"]}, "unknown key 'defualt'; did you mean 'default'?"),
        ({"experiments": "nowhere.yaml"}, "nowhere.yaml: cannot be read (No such file or directory)"),
    ],
)
def test_one_line_for_every_mistake_in_the_options(
    folder: Folder, options: dict[str, Any], message: str
) -> None:
    folder.options = options
    with pytest.raises(InputError) as caught:
        folder.load()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "results/nope/mAP.tsv",
            "there is no dataset 'nope', as config/datasets/nope.yaml does not exist; known: clips",
        ),
        (
            "results/clip/mAP.tsv",
            "there is no dataset 'clip', as config/datasets/clip.yaml does not exist; did you",
        ),
        (
            "results/clips/scores/bth/seed0.h5",
            "there is no experiment 'bth' in config/experiments.yaml; did you mean",
        ),
        ("results/clips/mAP-full.tsv", "'clips' has no longer table; give its file the key 'full'"),
        ("results/clips/features/flow/0of4.h5", "'clips' has no stream 'flow'; known: rgb, audio"),
    ],
)
def test_targets_that_no_file_describes(folder: Folder, path: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        folder.load().check_path(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    "path",
    [
        "results/clips/mAP.tsv",
        "results/clips/scores/both/seed0.h5",
        "results/clips/backbones/rgb.pt",
        "resources/weights/rgb_imagenet.pt",
        "all",
        "-n",
        "results",
    ],
)
def test_targets_that_are_described(folder: Folder, path: str) -> None:
    folder.load().check_path(path)


def test_a_dataset_is_not_named_as_the_folder_of_weights(folder: Folder) -> None:
    folder.write("datasets/weights.yaml", DATASET)
    with pytest.raises(InputError, match=r"weights\.yaml: resources/weights is for weights; give"):
        folder.load()


def test_members_are_listed_once_before_what_is_made_of_them() -> None:
    experiments = {"a": {}, "b": {"of": ["a"]}, "c": {"of": ["b", "a"]}}
    assert members(experiments, "c") == ["a", "b", "c"]


PROPOSED = """
maker: {detector: gtad, streams: [rgb]}
other: {detector: gtad, streams: [audio]}
pool: {fuse: proposals, of: [maker, other]}
rgb: {detector: muses, streams: [rgb], proposals: maker}
audio: {detector: muses, streams: [audio]}
both: {fuse: scores, of: [rgb, audio]}
apart: {fuse: proposals, of: [rgb, audio]}
"""


def test_scores_of_different_proposals_are_not_merged(folder: Folder) -> None:
    folder.write("experiments.yaml", PROPOSED)
    with pytest.raises(InputError) as caught:
        folder.load()
    assert str(caught.value) == (
        "config/datasets/clips.yaml: experiments.both: 'both' merges scores of different proposals "
        "('rgb': maker, 'audio': windows); use 'fuse: proposals', or give them the same"
    )
    folder.write("datasets/clips.yaml", DATASET.replace("{windows:", "{source: maker, windows:"))
    assert folder.load().experiments["both"]["fuse"] == "scores"
    folder.write("datasets/clips.yaml", DATASET.replace("both: ", "apart: "))
    config = folder.load()
    assert needed(config.experiments, config.datasets["clips"], "apart") == ["maker", "rgb", "audio"]


def test_what_makes_proposals_and_what_scores_them(folder: Folder) -> None:
    folder.write("experiments.yaml", PROPOSED.replace("proposals: maker", ""))
    experiments = folder.load().experiments
    assert [name for name in experiments if proposes(experiments, name)] == ["maker", "other", "pool"]
    folder.write("experiments.yaml", PROPOSED.replace("pool: {fuse: proposals", "pool: {fuse: scores"))
    with pytest.raises(InputError, match=r"pool\.of: these make proposals of their own, which differ"):
        folder.load()


def test_proposals_in_a_table_need_classes(folder: Folder) -> None:
    folder.write("experiments.yaml", PROPOSED.replace("proposals: maker", ""))
    rows = DATASET.replace("{rgb: , both: }", "{maker: }")
    folder.write("datasets/clips.yaml", rows)
    with pytest.raises(InputError) as caught:
        folder.load()
    assert str(caught.value) == (
        "config/datasets/clips.yaml: experiments.maker: 'maker' makes proposals without classes: name a file "
        "of 'class_scores', or set 'detectors.gtad.classifier: linear'"
    )
    for more in ("class_scores: file.json", "detectors: {gtad: {classifier: linear}}"):
        folder.write("datasets/clips.yaml", f"{rows}{more}\n")
        assert folder.load().datasets["clips"]["experiments"].keys() == {"maker"}


def test_a_detector_that_has_no_classifier_needs_class_scores() -> None:
    experiments = {"maker": {"detector": "gtad", "streams": ["rgb"], "proposals": None}}
    dataset = {"class_scores": None, "proposals": {}, "detectors": {"gtad": {}}, "streams": {"rgb": {}}}
    place = Path("mine.yaml"), "experiments.maker"
    with pytest.raises(InputError, match=r"without classes: name a file of 'class_scores'$"):
        check_runs(experiments, dataset, "maker", *place)
    check_runs(experiments, dataset | {"class_scores": "f.json"}, "maker", *place)


def test_the_longer_table_has_the_rows_of_the_short_one_first_and_seeds_of_its_own(folder: Folder) -> None:
    folder.write(
        "datasets/clips.yaml",
        DATASET.replace("{rgb: , both: }", "{both: }") + "full: {seeds: [1, 2], experiments: {rgb: }}\n",
    )
    config = folder.load()
    assert runs(config, "clips") == [("both", 0)]
    assert runs(config, "clips", full=True) == [("both", 1), ("both", 2), ("rgb", 1), ("rgb", 2)]


def schema_files() -> list[Path]:
    return sorted(SCHEMAS.glob("*.yaml"))


def keys(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        for name, inner in schema.get("properties", {}).items():
            # in a condition a key is only asked about, not described
            yield f"{place}.{name}", inner
        for name, inner in schema.items():
            if name != "if":
                yield from keys(inner, f"{place}.{name}")
    elif isinstance(schema, list):
        for index, inner in enumerate(schema):
            yield from keys(inner, f"{place}[{index}]")


@pytest.mark.parametrize("path", schema_files(), ids=lambda path: path.name)
def test_schemas_describe_every_key_and_refuse_others(path: Path) -> None:
    schema = read_yaml(path)
    Draft202012Validator.check_schema(schema)
    assert [place for place, key in keys(schema) if not key.get("description")] == []
    for place, key in [("", schema), *keys(schema)]:
        if key.get("type") == "object" and "allOf" not in key:
            assert "additionalProperties" in key, f"{place} accepts any key"


@pytest.mark.parametrize("path", schema_files(), ids=lambda path: path.name)
def test_defaults_fit_their_own_schema(path: Path) -> None:
    for place, key in keys(read_yaml(path)):
        if "default" in key and "$ref" not in key:
            Draft202012Validator(key).validate(complete(key["default"], key, place))


def test_the_tables_of_the_manual_are_those_of_the_schemas() -> None:
    spec = spec_from_file_location("config_manual", ROOT / "workflow" / "config_manual.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "config" / "README.md").read_text()
    assert module.manual(text) == text, "run: python workflow/config_manual.py"
    assert "| `streams.rgb.window` | `null` | Frames that a snippet sees; needed unless" in text


def defaults_of(place: str) -> dict[str, Any]:
    """Defaults that the schema of a dataset gives to the options at a place, sub-options included."""
    schema = read_yaml(SCHEMAS / "dataset.schema.yaml")
    for name in place.split("/"):
        schema = schema[int(name) if name.isdigit() else name]
    filled = complete({}, {"type": "object", "properties": schema}, place)
    return {name: value for name, value in filled.items() if name not in ("source", "seed", "training")}


@pytest.mark.parametrize(
    ("place", "options"),
    [
        ("properties/media/allOf/1/then/properties", "avfusion.demo.config.DemoConfig"),
        ("properties/media/allOf/3/then/properties", "avfusion.data.youtube.YoutubeOptions"),
        ("properties/detectors/properties/muses/properties", "avfusion.detectors.muses.Options"),
        ("properties/detectors/properties/pgcn/properties", "avfusion.detectors.pgcn.Options"),
        ("properties/detectors/properties/gtad/properties", "avfusion.detectors.gtad.Options"),
        ("properties/labelling/properties", "avfusion.engine.ranking.LabellingOptions"),
        ("properties/backbone_training/properties", "avfusion.demo.backbone.BackboneTraining"),
        ("properties/postprocess/properties", "avfusion.engine.postprocess.PostprocessOptions"),
    ],
)
def test_the_schema_gives_every_option_of_the_package_its_own_default(place: str, options: str) -> None:
    module, name = options.rsplit(".", 1)
    package = json.loads(json.dumps(asdict(getattr(import_module(module), name)())))
    package.pop("attention", None)  # which the fusion of an experiment decides
    assert defaults_of(place) == package


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_schema_gives_every_detector_its_published_training(detector: str) -> None:
    found = defaults_of(f"properties/detectors/properties/{detector}/properties/training/properties")
    assert found == json.loads(json.dumps(asdict(published_training(detector))))


def test_a_repeated_key_is_an_error_though_yaml_allows_it(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("a:\n  b: 1\n  b: 2\n")
    assert yaml.safe_load(path.read_text()) == {"a": {"b": 2}}
    with pytest.raises(InputError, match="line 3: the key 'b' stands here a second time"):
        read_yaml(path)


def test_a_control_says_in_its_note_that_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_workflow(read_yaml(ROOT / "config" / "config.yaml"), SCHEMAS)
    shuffled = describe(config.experiments, config.datasets["demo"], "muses-rgb+audio-shuffled")
    plain = describe(config.experiments, config.datasets["demo"], "muses-rgb+audio-concat")
    assert "control" in shuffled["note"] and "control" not in plain["note"]
