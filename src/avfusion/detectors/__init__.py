"""Detectors, and how one is built by its name."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from avfusion.detectors.base import Detector
from avfusion.errors import InputError, known_names
from avfusion.options import read_options

DETECTORS = {  # every module has `build` and `Options`
    "gtad": "avfusion.detectors.gtad",
    "muses": "avfusion.detectors.muses",
    "pgcn": "avfusion.detectors.pgcn",
}


def find_detector(name: str, source: str | Path = "config") -> ModuleType:
    """The module of a detector.

    Raises:
        InputError: there is none of that name.
    """
    if name not in DETECTORS:
        raise InputError(source, f"there is no detector '{name}'{known_names(name, DETECTORS)}", "detector")
    return import_module(DETECTORS[name])


def build_detector(
    name: str, options: Mapping[str, Any], widths: Sequence[int], classes: int, source: str | Path = "config"
) -> Detector[Any]:
    """A detector with fresh weights, drawn from torch's global generator.

    Args:
        name: of the detector.
        options: its options by name; the rest have the published values.
        widths: channels of every stream of the features, in the order in which they are joined.
        classes: number of classes, without background.
        source: file or argument that `options` come from, for messages.

    Raises:
        InputError: there is no such detector or option, or an option has a wrong value.
    """
    module = find_detector(name, source)
    detector: Detector[Any] = module.build(
        read_options(module.Options, options, source, "model"), tuple(widths), classes
    )
    return detector
