"""What the workflow is told: datasets and experiments, checked as a whole.

`schema` checks every file by itself; here are the checks that no schema can express: names that must
exist in another file, and choices that exclude one another.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avfusion.errors import InputError, known_names
from avfusion.schema import complete, read_yaml

Options = dict[str, Any]


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
        if dataset not in self.datasets:
            file = Path(self.options["datasets"]) / f"{dataset}.yaml"
            problem = f"there is no dataset '{dataset}', as {file} does not exist"
            raise InputError(path, problem + known_names(dataset, self.datasets))
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
    _check_experiments(experiments, experiments_file)
    schema = read_yaml(schemas / "dataset.schema.yaml")
    datasets = {}
    for path in sorted(folder.glob("*.yaml")):
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


def _check_experiments(experiments: Mapping[str, Options], path: Path) -> None:
    for name, options in experiments.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9+_.-]*", name):
            raise InputError(
                path, "a name consists of letters, digits, and . _ + - (files are named after it)", name
            )
        if "detector" in options:
            if len(options["streams"]) > 1 and options["fusion"] is None:
                raise InputError(path, "several streams need a fusion, such as 'fusion: concat'", name)
            if len(options["streams"]) == 1 and options["fusion"] is not None:
                raise InputError(path, "there is nothing to fuse in one stream", f"{name}.fusion")
            continue
        for index, member in enumerate(options["of"]):
            field = f"{name}.of[{index}]"
            if member not in experiments:
                raise InputError(
                    path, f"there is no experiment '{member}'{known_names(member, experiments)}", field
                )
            if missing := set(options["seeds"]) - set(experiments[member]["seeds"]):
                raise InputError(path, f"'{member}' does not run with seed {min(missing)}", field)
        if len(options["weights"] or options["of"]) != len(options["of"]):
            problem = f"{len(options['weights'])} weights for {len(options['of'])} experiments"
            raise InputError(path, problem, f"{name}.weights")
    for name in experiments:
        members(experiments, name, path)


def members(experiments: Mapping[str, Options], name: str, source: str | Path = "experiments") -> list[str]:
    """All experiments that `name` is made of, itself last; each once.

    Raises:
        InputError: an experiment is made of itself.
    """

    def visit(current: str, above: tuple[str, ...]) -> Iterator[str]:
        if current in above:
            raise InputError(source, f"is made of itself ({' -> '.join((*above, current))})", current)
        for member in experiments[current].get("of", ()):
            yield from visit(member, (*above, current))
        yield current

    return list(dict.fromkeys(visit(name, ())))


def describe(experiments: Mapping[str, Options], dataset: Options, name: str) -> Options:
    """What the table says of an experiment beside its figures.

    Returns:
        detector (of the first member), streams (also those of its members), fusion, reference, note.
    """
    trained = [
        experiments[member] for member in members(experiments, name) if "of" not in experiments[member]
    ]
    streams = list(dict.fromkeys(stream for member in trained for stream in member["streams"]))
    own, options = experiments[name], dataset["experiments"][name]
    made = {_origin(dataset["streams"][stream]["weights"]): stream for stream in streams}
    notes = [f"{origin} weights" for origin in made if origin]
    if any(member["labels"] == "shuffled" for member in trained):
        notes.append("control: trained on other videos' annotations")
    if options["reference"] and options["reference_source"]:
        notes.append(f"reference: {options['reference_source']}")
    return {
        "detector": trained[0]["detector"],
        "streams": streams,
        "fusion": own.get("fuse") or own["fusion"] or "",
        "reference": options["reference"],
        "note": "; ".join(notes),
    }


def describe_stream(stream: Options) -> str:
    """A stream in a few words: backbone, where its weights come from, and what its snippets see."""
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
    streams, count = dataset["streams"], len(dataset["tiou"])
    for name, options in dataset["experiments"].items():
        field = f"experiments.{name}"
        if name not in experiments:
            raise InputError(
                path, f"there is no experiment '{name}'{known_names(name, experiments)}", "experiments"
            )
        for member in members(experiments, name):
            for stream in experiments[member].get("streams", ()):
                if stream not in streams:
                    raise InputError(path, f"needs the stream '{stream}', which this dataset lacks", field)
        if options["reference"] and len(options["reference"]) != count:
            problem = f"{len(options['reference'])} figures for {count} thresholds (null where none is known)"
            raise InputError(path, problem, f"{field}.reference")
    rendered = dataset["media"]["source"] == "render"
    for stream, options in streams.items():
        grid = options.get("grid")
        if grid is not None and grid not in streams:
            raise InputError(
                path, f"there is no stream '{grid}'{known_names(grid, streams)}", f"streams.{stream}.grid"
            )
        if options["weights"] == "trained" and not rendered:
            problem = "'trained' is for rendered videos only; name a file of weights"
            raise InputError(path, problem, f"streams.{stream}.weights")
    if not rendered and dataset["annotations"] is None:
        raise InputError(
            path, "the key 'annotations' is missing: an ActivityNet JSON or a folder of THUMOS14 tables"
        )
    if dataset["subsets"]["train"] == dataset["subsets"]["test"]:
        raise InputError(path, "training and evaluation use the same videos", "subsets")
