"""How many of the actions proposals find, by how many of them one looks at (AR@AN)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from avfusion.data.tables import parse_json, read_text
from avfusion.errors import InputError
from avfusion.report import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERS = (10, 50, 100)  # average numbers of proposals that the text gives recall at


@dataclass(frozen=True, eq=False)
class RecallCurve:
    """Average recall of one source of proposals.

    Attributes:
        name: of the source.
        proposals: float64 (P,), average number of proposals per video.
        recall: float64 (P,), mean over the thresholds, in [0, 1].
        tiou: the thresholds.
    """

    name: str
    proposals: NDArray[np.float64]
    recall: NDArray[np.float64]
    tiou: tuple[float, ...]

    def at(self, count: float) -> float:
        """Recall with `count` proposals per video."""
        return float(np.interp(count, self.proposals, self.recall))


def load_curves(paths: Mapping[str, str | Path]) -> list[RecallCurve]:
    """Read what ``avfusion.evaluation.average_recall`` wrote as JSON, by the name of the source.

    Raises:
        InputError: a file cannot be read, or is something else.
    """
    curves = []
    for name, path in paths.items():
        value = parse_json(path, read_text(path))
        try:
            proposals, recall, tiou = (
                np.array(value[key], dtype=np.float64) for key in ("proposals", "recall", "tiou")
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(path, f"holds no recall of proposals ({error!r})") from error
        if proposals.shape != recall.shape or not (
            np.isfinite(proposals).all() and np.isfinite(recall).all()
        ):
            raise InputError(path, "must hold equally many finite values", "proposals, recall")
        curves.append(RecallCurve(name, proposals, recall, tuple(tiou.tolist())))
    return curves


def recall_chart(curves: Sequence[RecallCurve]) -> "Figure":
    """A line per source."""
    from matplotlib.figure import Figure

    with style.drawing():
        figure = Figure(figsize=(style.WIDTH, 3.4), layout="constrained")
        axes = figure.subplots()
        for curve, colour in zip(curves, style.distinct(len(curves)), strict=True):
            axes.plot(curve.proposals, 100 * curve.recall, color=colour, linewidth=2, label=curve.name)
        axes.set_xlabel("proposals per video (average)")
        axes.set_ylabel("average recall (%)")
        axes.set_xlim(0, max(float(curve.proposals[-1]) for curve in curves))
        axes.set_ylim(0, 105)
        axes.grid()
        figure.legend(loc="outside upper left", ncols=min(len(curves), 5), handlelength=1.2)
    return figure


def recall_caption(curves: Sequence[RecallCurve]) -> str:
    """What the picture shows, with figures."""
    tiou = f"tIoU {curves[0].tiou[0]:g} to {curves[0].tiou[-1]:g}"
    texts = []
    for curve in curves:
        last = curve.proposals[-1] * (1 + 1e-9)
        told = ", ".join(f"{100 * curve.at(n):.1f} at {n}" for n in NUMBERS if n <= last)
        texts.append(f"{curve.name}: {told}")
    return f"Average recall of proposals over their average number per video, {tiou}. {'; '.join(texts)}."
