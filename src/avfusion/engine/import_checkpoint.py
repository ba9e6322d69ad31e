"""Released checkpoints as ours: MUSES, P-GCN, G-TAD with and without RM attention, I3D, VGGish.

What a file holds is recognised by names; number of classes, widths and options are read off the shapes. What
shapes do not tell has the published value, or is told (`options`, `widths`). Detectors become a checkpoint
that `avfusion.engine.predict` takes; backbones a file that `weights` of a stream takes, under pytorch-i3d's
and torchvggish's names.

To add a detector: a function that reads its options off a state dict, and a line in `DETECTORS`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avfusion.backbones.i3d import pytorch_i3d_name
from avfusion.backbones.weights import UNUSED, BackboneConfig, Layout, fit_state, save_state
from avfusion.detectors import build_detector
from avfusion.detectors.gtad import INPUT_GROUPS
from avfusion.engine.checkpoint import Checkpoint, write_checkpoint
from avfusion.engine.released import Released, read_released
from avfusion.errors import InputError, known_names
from avfusion.files import atomic_path, sha256
from avfusion.options import write_options

AUDIO_WIDTH = 128  # of VGGish; sound is zero-padded to the picture, so that shapes do not tell it
FIRST_CHANNELS = 64  # of the first layer of I3D and VGGish at their published width
PCA_SHAPES = {"pca_eigen_vectors": (128, 128), "pca_means": (128,)}
PUBLISHED_SLOTS = {32: (16, 16), 36: (32, 4), 16: (16, 0)}  # of G-TAD, tal-hmo, G-TAD of style 0
UNKNOWN_SEED = -1
State = Mapping[str, Tensor]
logger = logging.getLogger("avfusion")


@dataclass(frozen=True)
class Imported:
    """What became of a file.

    Attributes:
        kind: muses, pgcn, gtad, i3d, vggish or vggish_pca.
        labels: classes of a detector, else empty.
        widths: channels of every stream of features that a detector takes, else empty.
        options: of the detector, or of the stream's backbone, that were read off or given.
    """

    kind: str
    labels: Sequence[str] = ()
    widths: Sequence[int] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Shapes:
    """Shapes in a file that is taken to be of some kind."""

    state: State
    source: str
    kind: str

    def __contains__(self, name: str) -> bool:
        return name in self.state

    def of(self, name: str, dims: int) -> tuple[int, ...]:
        """Shape of `name`, which must be there and have so many dimensions."""
        if name not in self.state:
            raise InputError(self.source, f"does not fit {self.kind}: '{name}' is missing")
        shape = tuple(self.state[name].shape)
        if len(shape) != dims:
            raise InputError(self.source, f"has shape {shape}, but {self.kind} wants {dims} dimensions", name)
        return shape


@dataclass(frozen=True)
class _Told:
    """What the shapes of a detector tell; `classes` is None if they tell no number of classes."""

    options: dict[str, Any]
    widths: tuple[int, ...]
    classes: int | None


@dataclass(frozen=True)
class _Kind:
    """How to recognise a detector (by a name that only it has), and what its shapes tell."""

    mark: str
    told: Callable[[_Shapes], _Told]
    regresses: bool  # so that it needs statistics of its regression targets


def import_checkpoint(
    source: str | Path,
    out: str | Path,
    kind: str = "auto",
    labels: Sequence[str] | None = None,
    widths: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
    reg_stats: Sequence[float] | None = None,
) -> Imported:
    """Read a released file and write what AVFusion takes.

    Args:
        source: written by ``torch.save``; nothing in it is executed.
        out: a checkpoint for a detector, a file of weights for a backbone; written whole or not at all.
        kind: muses, pgcn, gtad, i3d, vggish, or vggish_pca (the post-processor's parameters, which become
            AudioSet's .npz); "auto" goes by the names in the file.
        labels: names of the classes in the order of their numbers; None: class_1, class_2, ..., or action
            for a detector that knows no classes.
        widths: channels of every stream of the features, as they will be given to `predict`; None: one
            stream, or with attention the picture and 128 channels of sound.
        options: of the detector by name, in place of what the shapes tell and of the published values.
        reg_stats: mean and then deviation of the regression targets (centre, log length): 4 numbers, for
            files that hold none.

    Raises:
        InputError: see `read_released`; a kind that is not recognised; names that are missing or left over,
            tensors of other shapes (both are named) or not finite; another number of classes than labels.
    """
    released = read_released(source)
    found = recognise(released) if kind == "auto" else kind
    if found in BACKBONES:
        return BACKBONES[found](released, out)
    if found not in DETECTORS:
        raise InputError(source, f"'{kind}' is no kind{known_names(kind, (*DETECTORS, *BACKBONES))}", "kind")
    told = DETECTORS[found].told(_Shapes(released.state, released.source, found))
    names = _labels(released, told.classes, labels)
    streams = _widths(released, told.widths, widths)
    with torch.random.fork_rng(devices=[]):  # torch draws initial values that are replaced here
        model = build_detector(found, {**told.options, **(options or {})}, streams, len(names), source)
    _check(released, model.state_dict(), found)
    statistics = {"reg_stats": _statistics(released, reg_stats)} if DETECTORS[found].regresses else {}
    model.load_state_dict(dict(released.state))
    config = {
        "detector": found,
        "model": write_options(model.options),
        "imported": {"file": Path(source).name, "sha256": sha256(source)},
    }
    state = model.state_dict()
    write_checkpoint(out, Checkpoint(config, names, list(streams), UNKNOWN_SEED, state, statistics))
    logger.info("%s: %s of %d classes, %d tensors", source, found, len(names), len(released.state))
    return Imported(found, names, streams, told.options)


def recognise(released: Released) -> str:
    """The kind of a file by its names.

    Raises:
        InputError: it is of no known kind.
    """
    for kind, detector in DETECTORS.items():
        if detector.mark in released.state:
            return kind
    names = {pytorch_i3d_name(name) for name in released.state}
    marks = {
        "i3d": "Conv3d_1a_7x7.conv3d.weight",
        "vggish": "embeddings.0.weight",
        "vggish_pca": "pca_eigen_vectors",
    }
    for kind, mark in marks.items():
        if mark in names:
            return kind
    some = ", ".join(list(released.state)[:3])
    kinds = ", ".join((*DETECTORS, *BACKBONES))
    raise InputError(released.source, f"is none of {kinds}: its names begin with {some}")


def _muses(shapes: _Shapes) -> _Told:
    first, channels = shapes.of("backbone.layers.0.branches.0.weight", 4)[:2]
    second = shapes.of("backbone.layers.2.branches.0.weight", 4)[0]
    outputs, hidden = shapes.of("roi_head.activity_fc.weight", 2)
    pooled = shapes.of("roi_head.Act_MLP.0.weight", 2)[1]
    attention = int("U_v.0.weight" in shapes)
    options = {
        "backbone_dims": [first, second],
        "hidden": hidden,
        "roi_size": pooled // second,
        "attention": attention,
    }
    return _Told(options, (channels, AUDIO_WIDTH) if attention else (channels,), outputs - 1)


def _pgcn(shapes: _Shapes) -> _Told:
    channels, hidden = shapes.of("Act_GCN.gc1.weight", 2)
    outputs = shapes.of("activity_fc.weight", 2)[0]
    attention = int(f"U_v{channels}.0.weight" in shapes)
    widths = (channels, AUDIO_WIDTH) if attention else (channels,)
    return _Told({"hidden": hidden, "attention": attention}, widths, outputs - 1)


def _gtad(shapes: _Shapes) -> _Told:
    """The network knows no classes. Its slots could be divided in several ways: the published one is taken.

    Windows and the longest candidate leave no trace in the shapes.
    """
    first, per_group = shapes.of("backbone1.0.weight", 3)[:2]
    deep, aligned = shapes.of("localization.0.weight", 4)[:2]
    grouped, group_width = shapes.of("backbone1.2.tconvs.2.weight", 3)[:2]
    slots = aligned // first
    inner, context = PUBLISHED_SLOTS.get(slots, (slots - slots // 2, slots // 2))
    attention = int("U_v.0.weight" in shapes)
    options = {
        "style": 1 if context else 0,
        "inner_slots": inner,
        "hidden_1d": first,
        "hidden_2d": shapes.of("localization.2.weight", 4)[0],
        "hidden_3d": deep,
        "groups": grouped // group_width,
        "attention": attention,
    }
    if context:
        options["context_slots"] = context
    channels = per_group * INPUT_GROUPS
    return _Told(options, (channels, AUDIO_WIDTH) if attention else (channels,), None)


def _i3d(released: Released, out: str | Path) -> Imported:
    state = {pytorch_i3d_name(name): value for name, value in released.state.items()}
    renamed = any(name not in released.state for name in state)
    layout: Layout = "video_features" if renamed else "pytorch-i3d"
    shapes = _Shapes(state, released.source, "i3d")
    outputs, inputs = shapes.of("Conv3d_1a_7x7.conv3d.weight", 5)[:2]
    config = BackboneConfig("i3d", in_channels=inputs, width=outputs / FIRST_CHANNELS, layout=layout)
    _save_backbone(released, state, config, out)
    return Imported("i3d", options={"layout": layout, "width": config.width, "in_channels": inputs})


def _vggish(released: Released, out: str | Path) -> Imported:
    outputs = _Shapes(released.state, released.source, "vggish").of("features.0.weight", 4)[0]
    config = BackboneConfig("vggish", width=outputs / FIRST_CHANNELS)
    _save_backbone(released, released.state, config, out)
    return Imported("vggish", options={"width": config.width})


def _vggish_pca(released: Released, out: str | Path) -> Imported:
    shapes = _Shapes(released.state, released.source, "vggish_pca")
    for name, wanted in PCA_SHAPES.items():
        found = shapes.of(name, len(wanted))
        if found != wanted:
            raise InputError(released.source, f"has shape {found}, but VGGish wants {wanted}", name)
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        vectors, means = (released.state[name].numpy() for name in PCA_SHAPES)
        np.savez(file, pca_eigen_vectors=vectors, pca_means=means)
    return Imported("vggish_pca")


DETECTORS = {
    "muses": _Kind("roi_head.activity_fc.weight", _muses, regresses=True),
    "pgcn": _Kind("Act_GCN.gc1.weight", _pgcn, regresses=True),
    "gtad": _Kind("backbone1.0.weight", _gtad, regresses=False),
}
BACKBONES: dict[str, Callable[[Released, str | Path], Imported]] = {
    "i3d": _i3d,
    "vggish": _vggish,
    "vggish_pca": _vggish_pca,
}


def _save_backbone(released: Released, state: State, config: BackboneConfig, out: str | Path) -> None:
    module = config.build()
    fit_state(module, state, released.source, UNUSED[config.name])
    save_state(out, module.state_dict())


def _labels(released: Released, classes: int | None, labels: Sequence[str] | None) -> list[str]:
    if labels is None and classes is None:
        return ["action"]
    if labels is None:
        logger.warning("%s: its classes have no names; they are called class_1, ...", released.source)
        return [f"class_{k}" for k in range(1, (classes or 0) + 1)]
    if classes is not None and len(labels) != classes:
        problem = f"has {classes} classes, but {len(labels)} labels are given: is it of another dataset?"
        raise InputError(released.source, problem)
    if len(set(labels)) != len(labels) or not all(labels):
        raise InputError("labels", "must be names, each of them once")
    return list(labels)


def _widths(released: Released, own: Sequence[int], widths: Sequence[int] | None) -> list[int]:
    if widths is None:
        return list(own)
    attends = len(own) > 1
    fits = widths and (widths[0] == own[0] if attends else sum(widths) == own[0])
    if not fits:
        wanted = f"a picture of {own[0]} channels and sound" if attends else f"{own[0]} channels in all"
        told = "+".join(map(str, widths))
        raise InputError(released.source, f"takes {wanted}, not {told}", "widths")
    return list(widths)


def _check(released: Released, own: State, kind: str) -> None:
    """The names and shapes must be those of the detector."""
    told = []
    for what, names in (
        ("missing", own.keys() - released.state.keys()),
        ("left over", released.state.keys() - own.keys()),
    ):
        some = sorted(names)
        if some:
            told.append(f"{len(some)} {what} ({', '.join(some[:3])}{', ...' if len(some) > 3 else ''})")
    if told:
        raise InputError(released.source, f"does not fit {kind}: {'; '.join(told)}")
    for name, value in own.items():
        theirs = released.state[name]
        if theirs.shape != value.shape:
            problem = f"has shape {tuple(theirs.shape)}, but {kind} wants {tuple(value.shape)}"
            raise InputError(released.source, problem, name)
        if not torch.isfinite(theirs).all():
            raise InputError(released.source, "holds NaN or infinite values", name)


def _statistics(released: Released, given: Sequence[float] | None) -> Tensor:
    value = released.entries.get("reg_stats") if given is None else given
    if value is None:
        problem = "the file holds none: give the means and deviations of the regression targets (4 numbers)"
        raise InputError(released.source, problem, "reg_stats")
    try:
        table = np.asarray(value, dtype=np.float64).reshape(2, 2)
    except (TypeError, ValueError) as error:
        raise InputError(released.source, f"must be 4 numbers, not {value!r}", "reg_stats") from error
    if not (np.isfinite(table).all() and (table[1] > 0).all()):
        problem = f"must be finite and deviations above 0, not {table.tolist()}"
        raise InputError(released.source, problem, "reg_stats")
    return torch.from_numpy(table)
