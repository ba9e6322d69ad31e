"""What experiments are: which others they are made of, what they score, and whether that can work.

An experiment trains a detector (``detector``) or fuses the decisions of others (``fuse``). What it makes are
*scores* of given proposals (MUSES, P-GCN and what is fused of them), or *proposals* of its own (G-TAD and
what is fused of it).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from avfusion.data.streams import is_sound
from avfusion.errors import InputError, known_names

Options = dict[str, Any]
Experiments = Mapping[str, Options]
PROPOSERS = ("gtad",)  # detectors that make proposals; the others score them
WINDOWS, LIST = "windows", "list"


def is_trained(options: Options) -> bool:
    """Whether an experiment trains a detector, rather than fusing others."""
    return "detector" in options


def members(experiments: Experiments, name: str, source: str | Path = "experiments") -> list[str]:
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


def trained_members(experiments: Experiments, name: str) -> list[str]:
    """The experiments among `members` that train a detector."""
    return [member for member in members(experiments, name) if is_trained(experiments[member])]


def proposes(experiments: Experiments, name: str) -> bool:
    """Whether an experiment makes proposals of its own, rather than scores of given ones."""
    return all(experiments[member]["detector"] in PROPOSERS for member in trained_members(experiments, name))


def proposal_source(experiments: Experiments, dataset: Options, name: str) -> str | None:
    """What a trained experiment scores on a dataset: ``windows``, ``list`` or the name of a G-TAD experiment.

    None for an experiment that makes proposals of its own.
    """
    if experiments[name]["detector"] in PROPOSERS:
        return None
    source: str = experiments[name]["proposals"] or dataset["proposals"]["source"]
    return source


def needed(experiments: Experiments, dataset: Options, name: str) -> list[str]:
    """Experiments that train a detector for `name`, also those that only make proposals for it."""
    found: dict[str, None] = {}
    for member in trained_members(experiments, name):
        source = proposal_source(experiments, dataset, member)
        if source in experiments:
            found[str(source)] = None
        found[member] = None
    return list(found)


def check_experiments(experiments: Experiments, path: Path) -> None:
    """Refuse experiments that can work on no dataset.

    Raises:
        InputError: with the file and the key.
    """
    for name, options in experiments.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9+_.-]*", name):
            problem = "a name consists of letters, digits, and . _ + - (files are named after it)"
            raise InputError(path, problem, name)
        if name in (WINDOWS, LIST):
            raise InputError(path, "this name stands for a source of proposals; choose another", name)
        if is_trained(options):
            _check_trained(experiments, name, path)
        else:
            _check_fused(experiments, name, path)
    for name in experiments:
        members(experiments, name, path)
        if not is_trained(experiments[name]):
            _check_kinds(experiments, name, path)


def check_runs(experiments: Experiments, dataset: Options, name: str, path: Path, field: str) -> None:
    """Refuse an experiment that cannot work on this dataset.

    Args:
        experiments: all of them.
        dataset: options of the dataset.
        name: of the experiment.
        path: file of the dataset, for messages.
        field: key under which the dataset names the experiment, for messages.

    Raises:
        InputError: unknown experiment, missing stream or proposals, or a merge of scores of other proposals.
    """
    if name not in experiments:
        place, _, _ = field.rpartition(".")
        raise InputError(path, f"there is no experiment '{name}'{known_names(name, experiments)}", place)
    for member in trained_members(experiments, name):
        _check_source(experiments, dataset, member, path, field)
        if _is_proposer(experiments[member]):
            _check_classes(experiments, dataset, member, path, field)
    for member in needed(experiments, dataset, name):
        for stream in experiments[member]["streams"]:
            if stream not in dataset["streams"]:
                raise InputError(path, f"needs the stream '{stream}', which this dataset lacks", field)
    for member in members(experiments, name):
        if experiments[member].get("fuse") == "scores":
            _check_same_proposals(experiments, dataset, member, path, field)


def _check_trained(experiments: Experiments, name: str, path: Path) -> None:
    options = experiments[name]
    streams: Sequence[str] = options["streams"]
    sound = [stream for stream in streams if is_sound(stream)]
    if len(sound) > 1 or (sound and streams[-1] != sound[0]):
        raise InputError(path, f"one stream of sound at most, as the last, not {streams}", f"{name}.streams")
    if len(streams) > 1 and sound and options["fusion"] is None:
        raise InputError(path, "sound needs a fusion with what is seen, such as 'fusion: concat'", name)
    if len(streams) == 1 and options["fusion"] is not None:
        raise InputError(path, "there is nothing to fuse in one stream", f"{name}.fusion")
    if options["fusion"] not in (None, "concat") and not sound:
        problem = f"'{options['fusion']}' joins sound to what is seen, and there is none; use concat"
        raise InputError(path, problem, f"{name}.fusion")
    source = options["proposals"]
    if source is None:
        return
    field = f"{name}.proposals"
    if options["detector"] in PROPOSERS:
        raise InputError(path, f"'{options['detector']}' makes proposals of its own; leave this out", field)
    if source not in (WINDOWS, LIST):
        _check_proposer(experiments, source, path, field)


def _check_proposer(experiments: Experiments, source: str, path: Path, field: str) -> None:
    if source not in experiments:
        choices = [WINDOWS, LIST, *(name for name in experiments if _is_proposer(experiments[name]))]
        problem = f"there are no proposals '{source}'{known_names(source, choices)}"
        raise InputError(path, problem, field)
    if not _is_proposer(experiments[source]):
        raise InputError(path, f"'{source}' makes no proposals; name an experiment with detector gtad", field)


def _is_proposer(options: Options) -> bool:
    return options.get("detector") in PROPOSERS


def _check_fused(experiments: Experiments, name: str, path: Path) -> None:
    options = experiments[name]
    for index, member in enumerate(options["of"]):
        if member not in experiments:
            problem = f"there is no experiment '{member}'{known_names(member, experiments)}"
            raise InputError(path, problem, f"{name}.of[{index}]")
    if options["weights"] is None:
        return
    if options["fuse"] == "proposals":
        raise InputError(path, "pooled proposals have no weights; leave them out", f"{name}.weights")
    if len(options["weights"]) != len(options["of"]):
        problem = f"{len(options['weights'])} weights for {len(options['of'])} experiments"
        raise InputError(path, problem, f"{name}.weights")


def _check_kinds(experiments: Experiments, name: str, path: Path) -> None:
    kinds = {member: proposes(experiments, member) for member in experiments[name]["of"]}
    if len(set(kinds.values())) > 1:
        makes, scores = (next(m for m, kind in kinds.items() if kind is wanted) for wanted in (True, False))
        problem = f"'{makes}' makes proposals, '{scores}' scores given ones; fuse experiments of one kind"
        raise InputError(path, problem, f"{name}.of")
    if experiments[name]["fuse"] == "scores" and all(kinds.values()):
        problem = "these make proposals of their own, which differ; use 'fuse: proposals'"
        raise InputError(path, problem, f"{name}.of")


def _check_source(experiments: Experiments, dataset: Options, name: str, path: Path, field: str) -> None:
    source = proposal_source(experiments, dataset, name)
    given = dataset["proposals"]
    if source == WINDOWS and given["windows"] is None:
        raise InputError(path, f"'{name}' scores windows: say which ('lengths')", "proposals.windows")
    if source == LIST and not given["list"]:
        raise InputError(path, f"'{name}' scores listed proposals: name the files", "proposals.list")
    if source not in (None, WINDOWS, LIST):
        place = "proposals.source" if experiments[name]["proposals"] is None else field
        _check_proposer(experiments, str(source), path, place)


def _check_classes(experiments: Experiments, dataset: Options, name: str, path: Path, field: str) -> None:
    """What makes proposals and stands in a table needs somebody who says what they are."""
    detector = experiments[name]["detector"]
    own = dataset["detectors"][detector].get("classifier")  # None: it can have none
    if dataset["class_scores"] is None and own in (None, "none"):
        problem = f"'{name}' makes proposals without classes: name a file of 'class_scores'"
        advice = f", or set 'detectors.{detector}.classifier: linear'" if own else ""
        raise InputError(path, problem + advice, field)


def _check_same_proposals(
    experiments: Experiments, dataset: Options, name: str, path: Path, field: str
) -> None:
    """Scores can be merged only where they are of the same proposals."""
    sources = {
        member: proposal_source(experiments, dataset, member) for member in trained_members(experiments, name)
    }
    first, *others = sources
    for other in others:
        if sources[other] != sources[first]:
            problem = (
                f"'{name}' merges scores of different proposals ('{first}': {sources[first]}, "
                f"'{other}': {sources[other]}); use 'fuse: proposals', or give them the same"
            )
            raise InputError(path, problem, field)
