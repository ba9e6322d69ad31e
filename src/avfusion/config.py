"""What the workflow is told: datasets and experiments, checked as a whole.

`schema` checks every file by itself; here are the checks that no schema can express: names that must
exist in another file, and choices that exclude one another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avfusion.data.streams import is_sound
from avfusion.errors import InputError, known_names
from avfusion.experiments import (
    LIST,
    WINDOWS,
    check_experiments,
    check_runs,
    is_trained,
    proposal_source,
    trained_members,
)
from avfusion.schema import complete, read_yaml

Options = dict[str, Any]
WEIGHTS = "weights"  # the folder in resources/ of what belongs to no dataset


@dataclass(frozen=True)
class WorkflowConfig:
    """Everything that the workflow is told.

    Attributes:
        options: what config.yaml says (and ``--config``).
        datasets: options of every dataset by name (the name of its file).
        experiments: options of every experiment by name.
    """

    options: Options
    datasets: dict[str, Options]
    experiments: dict[str, Options]

    def check_path(self, path: str) -> None:
        """Refuse a target such as ``results/nope/mAP.tsv`` if it names what no config file describes.

        Raises:
            InputError: unknown dataset, stream or experiment.
        """
        parts = Path(path).parts
        if len(parts) < 3 or parts[0] not in ("results", "resources"):
            return
        place, dataset = parts[2], parts[1]
        if (parts[0], dataset) == ("resources", WEIGHTS):
            return
        if dataset not in self.datasets:
            file = Path(self.options["datasets"]) / f"{dataset}.yaml"
            problem = f"there is no dataset '{dataset}', as {file} does not exist"
            raise InputError(path, problem + known_names(dataset, self.datasets))
        if place.startswith(("mAP-full", "report-full")) and not self.datasets[dataset]["full"]:
            raise InputError(path, f"'{dataset}' has no longer table; give its file the key 'full'")
        if len(parts) < 4:
            return
        name = parts[3].removesuffix(".pt")
        if place in ("models", "scores", "detections", "evaluation") and name not in self.experiments:
            problem = f"there is no experiment '{name}' in {self.options['experiments']}"
            raise InputError(path, problem + known_names(name, self.experiments))
        streams = self.datasets[dataset]["streams"]
        if place in ("features", "backbones") and name not in streams:
            raise InputError(path, f"'{dataset}' has no stream '{name}'{known_names(name, streams)}")


def load_workflow(
    options: Mapping[str, Any], schemas: Path, source: str = "config/config.yaml"
) -> WorkflowConfig:
    """Check `options` (the content of config.yaml) and read and check the files that it names.

    Args:
        options: values of config.yaml, possibly changed on the command line.
        schemas: folder of config.schema.yaml, dataset.schema.yaml and experiments.schema.yaml.
        source: name of the file that `options` come from, for messages.

    Raises:
        InputError: the first thing that is wrong, with file and key.
    """
    checked = complete(options, read_yaml(schemas / "config.schema.yaml"), source)
    folder, experiments_file = Path(checked["datasets"]), Path(checked["experiments"])
    if not folder.is_dir():
        raise InputError(source, f"there is no folder '{folder}'", "datasets")
    experiments = complete(
        read_yaml(experiments_file), read_yaml(schemas / "experiments.schema.yaml"), experiments_file
    )
    check_experiments(experiments, experiments_file)
    schema = read_yaml(schemas / "dataset.schema.yaml")
    datasets = {}
    for path in sorted(folder.glob("*.yaml")):
        if path.stem == WEIGHTS:
            raise InputError(path, f"resources/{WEIGHTS} is for weights; give the dataset another name")
        datasets[path.stem] = complete(read_yaml(path), schema, path)
        _check_dataset(datasets[path.stem], experiments, path)
    for index, name in enumerate(checked["default"]):
        if name not in datasets:
            raise InputError(
                source,
                f"there is no dataset '{name}' in {folder}{known_names(name, datasets)}",
                f"default[{index}]",
            )
    return WorkflowConfig(checked, datasets, experiments)


def describe(experiments: Mapping[str, Options], dataset: Options, name: str) -> Options:
    """What the table says of an experiment beside its figures.

    Returns:
        What `avfusion.report.results.ResultRow` takes beside the name and the evaluations.
    """
    trained = trained_members(experiments, name)
    streams = list(dict.fromkeys(stream for member in trained for stream in experiments[member]["streams"]))
    own = experiments[name]
    options = next(rows[name] for rows in _tables(dataset).values() if name in rows)
    made = {_origin(dataset["streams"][stream]["weights"]): stream for stream in streams}
    notes = [f"{origin} weights" for origin in made if origin]
    sources = dict.fromkeys(proposal_source(experiments, dataset, member) for member in trained)
    if others := [source for source in sources if source not in (None, WINDOWS)]:
        notes.append("proposals: " + ", ".join("a list" if s == LIST else str(s) for s in others))
    control = any(experiments[member]["labels"] == "shuffled" for member in trained)
    if released := [member for member in trained if member in dataset["checkpoints"]]:
        notes.append(f"released weights: {', '.join(released)}")
    if begun := [member for member in trained if member in dataset["initial"]]:
        notes.append(f"trained from a checkpoint: {', '.join(begun)}")
    if control:
        notes.append("control: trained on other videos' annotations")
    if options["reference"] and options["reference_source"]:
        notes.append(f"reference: {options['reference_source']}")
    return {
        "detector": experiments[trained[0]]["detector"],
        "streams": streams,
        "fusion": own.get("fuse") or own["fusion"] or "",
        "reference": options["reference"],
        "note": "; ".join(notes),
        "members": own.get("of", []),
        "control": control,
        "proposals": ", ".join(str(source) for source in sources if source is not None),
    }


def runs(config: "WorkflowConfig", dataset: str, full: bool = False) -> list[tuple[str, int]]:
    """Experiment and seed of every row of a dataset's table, in its order.

    Args:
        config: everything that the workflow is told.
        dataset: name of the dataset.
        full: of the longer table.
    """
    options = config.datasets[dataset]
    tables = _tables(options)
    names = [name for place, rows in tables.items() if full or place == "experiments" for name in rows]
    seeds = options["full"]["seeds"] if full and options["full"] else None
    return [(name, seed) for name in names for seed in seeds or config.experiments[name]["seeds"]]


def describe_stream(stream: Options) -> str:
    """A stream in a few words: backbone, where its weights come from, and what its snippets see."""
    if stream["features"]:
        return f"imported from {stream['features']['path']}"
    width = "" if stream["width"] == 1 else f" at {stream['width']:g} of its width"
    origin = _origin(stream["weights"])
    step = f"on the grid of {stream['grid']}" if stream.get("grid") else f"every {stream['stride']}"
    parts = [
        stream["backbone"] + width,
        f"{origin} weights" if origin else f"weights {stream['weights']}",
        f"window {stream['window']:g} {step}",
    ]
    return ", ".join(parts + ([f"flow {stream['flow']}"] if "flow" in stream else []))


def _origin(weights: str | None) -> str:
    """Where weights come from that a reader must be warned of; empty for a file of weights."""
    if weights == "trained":
        return "demo-trained"
    return "random" if (weights or "").startswith("random:") else ""


def _check_dataset(dataset: Options, experiments: Mapping[str, Options], path: Path) -> None:
    for place, rows in _tables(dataset).items():
        for name, options in rows.items():
            field = f"{place}.{name}"
            check_runs(experiments, dataset, name, path, field)
            _check_reference(dataset, options, path, f"{field}.reference")
    for name in _tables(dataset).get("full.experiments", ()):
        if name in dataset["experiments"]:
            raise InputError(path, "stands among 'experiments' already", f"full.experiments.{name}")
    trained = [key for key, value in experiments.items() if is_trained(value)]
    for place in ("checkpoints", "initial"):
        for name in dataset[place]:
            if name not in trained:
                problem = f"no experiment '{name}' trains a detector{known_names(name, trained)}"
                raise InputError(path, problem, place)
    for name in dataset["initial"]:
        if name in dataset["checkpoints"]:
            raise InputError(path, "stands among 'checkpoints' as well: it is not trained", f"initial.{name}")
    _check_streams(dataset, path)
    rendered = dataset["media"]["source"] == "render"
    if not rendered and dataset["annotations"] is None:
        raise InputError(
            path, "the key 'annotations' is missing: an ActivityNet JSON or a folder of THUMOS14 tables"
        )
    if dataset["subsets"]["train"] == dataset["subsets"]["test"]:
        raise InputError(path, "training and evaluation use the same videos", "subsets")


def _tables(dataset: Options) -> dict[str, dict[str, Options]]:
    """The experiments of a dataset by the key of its file under which they stand."""
    tables = {"experiments": dataset["experiments"]}
    if dataset["full"]:
        tables["full.experiments"] = dataset["full"]["experiments"]
    return tables


def _check_reference(dataset: Options, options: Options, path: Path, field: str) -> None:
    count = len(dataset["tiou"])
    if options["reference"] and len(options["reference"]) != count:
        problem = f"{len(options['reference'])} figures for {count} thresholds (null where none is known)"
        raise InputError(path, problem, field)


def _check_streams(dataset: Options, path: Path) -> None:
    streams = dataset["streams"]
    for stream, options in streams.items():
        field = f"streams.{stream}"
        if options["features"] is not None:
            _check_import(options["features"], path, f"{field}.features")
            continue
        if dataset["media"]["source"] == "none":
            raise InputError(path, "there are no media to extract it from; name its 'features'", field)
        for key in ("window", "stride") if not is_sound(stream) else ():
            if options[key] is None:
                raise InputError(path, f"the key '{key}' is missing", field)
        grid = options.get("grid")
        if grid in streams and streams[grid]["features"] is not None:
            problem = f"the snippets of '{grid}' are imported, nothing can be cut around them; use null"
            raise InputError(path, problem, f"{field}.grid")
        if grid is not None and grid not in streams:
            raise InputError(
                path, f"there is no stream '{grid}'{known_names(grid, streams)}", f"{field}.grid"
            )
        if options["weights"] == "trained" and dataset["media"]["source"] != "render":
            problem = "'trained' is for rendered videos only; name a file of weights"
            raise InputError(path, problem, f"{field}.weights")


def _check_import(features: Options, path: Path, field: str) -> None:
    whole = features["unit"] == "video"
    if features["stride"] is None and not whole:
        raise InputError(path, f"the key 'stride' is missing, in {features['unit']}", field)
    for key in ("stride", "window", "first"):
        if whole and features[key] is not None:
            raise InputError(path, "has no meaning if snippets divide the whole video", f"{field}.{key}")
