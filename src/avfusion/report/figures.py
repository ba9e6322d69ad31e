"""Pictures of the evaluations: precision per threshold and class, what audio brings, and what goes wrong."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from avfusion.data.streams import is_sound
from avfusion.report import style
from avfusion.report.outcomes import Judged, Outcome
from avfusion.report.results import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASS_TIOU = 0.5
MOST_CLASSES = 40  # rows that the picture of classes still shows readably
MOST_PAIRS = 3
OUTCOME_TEXTS = {
    Outcome.FOUND: "found",
    Outcome.BOUNDARIES: "wrong boundaries",
    Outcome.CLASS: "wrong class",
    Outcome.DUPLICATE: "found twice",
    Outcome.BACKGROUND: "nothing there",
}


def map_chart(results: Sequence[Result]) -> "Figure":
    """Bars of mAP per threshold, a colour per experiment; whiskers: spread over seeds; lines: published."""
    from matplotlib.figure import Figure

    with style.drawing():
        figure = Figure(figsize=(style.WIDTH, 3.6), layout="constrained")
        axes = figure.subplots()
        groups = np.arange(len(results[0].tiou) + 1)
        width = 0.86 / len(results)
        for k, (result, colour) in enumerate(zip(results, style.experiment_colours(results), strict=True)):
            x = groups + (k - (len(results) - 1) / 2) * width
            heights = np.append(result.percent, result.average)
            hatch = "///" if result.fused else None  # told apart without colour too
            axes.bar(
                x,
                heights,
                0.92 * width,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0,
                label=result.row.experiment,
            )
            if result.spread is not None and result.average_spread is not None:
                error = np.append(result.spread, result.average_spread)
                axes.errorbar(x, heights, error, fmt="none", ecolor=style.INK, elinewidth=0.9, capsize=2)
            elif len(results) <= 8:
                for left, height in zip(x, heights, strict=True):
                    axes.text(left, height + 0.8, f"{height:.0f}", ha="center", fontsize=7, color=style.INK)
            for left, value in zip(x, result.row.reference or (), strict=False):
                if value is not None:
                    axes.hlines(value, left - width / 2, left + width / 2, color="black", linewidth=2)
        axes.set_xticks(groups, [*(f"tIoU {t:g}" for t in results[0].tiou), "average"])
        axes.axvline(len(groups) - 1.5, color=style.FAINT, linewidth=0.8, linestyle=":")
        axes.set_ylabel("mAP (%)")
        axes.set_ylim(0, 105)
        axes.set_yticks(range(0, 101, 20))
        axes.grid(axis="y")
        axes.tick_params(length=0)
        figure.legend(loc="outside upper left", ncols=min(len(results), 5), handlelength=1.2)
    return figure


def class_map(results: Sequence[Result], tiou: float = CLASS_TIOU) -> "Figure":
    """Heat map of AP: a row per class, a column per experiment."""
    from matplotlib.figure import Figure

    level = results[0].level(tiou)
    table = 100 * np.stack([result.class_ap[:, level] for result in results], axis=1)
    shown = np.arange(len(table))
    if len(table) > MOST_CLASSES:
        shown = np.sort(np.argsort(-np.ptp(table, axis=1), kind="stable")[:MOST_CLASSES])
    table = table[shown]
    with style.drawing():
        figure = Figure(figsize=(style.WIDTH, 1.3 + 0.3 * len(table)), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(table, aspect="auto", cmap="cividis", vmin=0, vmax=100)
        inks = [[style.readable_on(colour) for colour in row] for row in image.to_rgba(table)]
        for (i, j), value in np.ndenumerate(table):
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", color=inks[i][j])
        axes.set_yticks(range(len(table)), [results[0].labels[i] for i in shown])
        axes.set_xticks(range(len(results)), _wrapped([result.row.experiment for result in results]))
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(len(results) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(table) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="minor", length=0)
        figure.colorbar(
            image, ax=axes, label=f"AP (%) at tIoU {results[0].tiou[level]:g}", pad=0.01, aspect=30
        )
        if len(shown) < len(results[0].labels):
            axes.set_xlabel(
                f"the {len(shown)} of {len(results[0].labels)} classes in which the experiments differ most"
            )
    return figure


def audio_pairs(results: Sequence[Result]) -> list[tuple[Result, Result]]:
    """Pairs of experiments with one detector whose streams differ in audio alone: (without, with)."""
    return [
        (without, with_audio)
        for without in results
        for with_audio in results
        if any(map(is_sound, with_audio.row.streams))
        and not with_audio.row.control
        and [s for s in with_audio.row.streams if not is_sound(s)] == list(without.row.streams)
        and with_audio.row.detector == without.row.detector
    ]


def audio_chart(results: Sequence[Result], tiou: float = CLASS_TIOU) -> "Figure":
    """Per class, how many points of AP an experiment gains over the same one without audio."""
    from matplotlib.figure import Figure

    pairs = audio_pairs(results)[:MOST_PAIRS]
    if not pairs:
        return message("No two experiments differ in audio alone.")
    level = results[0].level(tiou)
    gains = [100 * (b.class_ap[:, level] - a.class_ap[:, level]) for a, b in pairs]
    shown = np.argsort(-np.abs(gains[0]), kind="stable")[:MOST_CLASSES]
    shown = shown[np.argsort(gains[0][shown], kind="stable")]
    limit = max(10.0, float(np.abs([gain[shown] for gain in gains]).max()) * 1.15)
    with style.drawing():
        figure = Figure(figsize=(style.WIDTH, 1.2 + 0.27 * len(shown)), layout="constrained")
        panels = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
        for axes, gain, (without, with_audio) in zip(panels, gains, pairs, strict=True):
            values = gain[shown]
            colours = [style.GAIN if value >= 0 else style.LOSS for value in values]
            axes.barh(np.arange(len(shown)), values, 0.7, color=colours)
            for row, value in enumerate(values):
                side = "left" if value >= 0 else "right"
                text = f"  {round(value):+d}  " if round(value) else "  0  "
                axes.text(value, row, text, ha=side, va="center", fontsize=8)
            axes.axvline(0, color=style.INK, linewidth=0.8)
            mean = float(gain.mean())
            axes.set_title(
                f"{with_audio.row.experiment}\nagainst {without.row.experiment}: mAP {mean:+.1f}",
                fontsize=10 if len(pairs) == 1 else 8,
            )
            axes.set_xlim(-limit if values.min() < 0 else -0.1 * limit, limit)
            axes.set_ylim(-0.7, len(shown) - 0.3)
            axes.set_xlabel(f"difference of AP at tIoU {results[0].tiou[level]:g} (points)")
            axes.grid(axis="x")
            axes.tick_params(length=0)
            axes.spines["left"].set_visible(False)
        panels[0].set_yticks(range(len(shown)), [results[0].labels[i] for i in shown])
    return figure


def outcome_chart(judged: Mapping[str, Judged]) -> "Figure":
    """What became of each experiment's surest detections, as shares of a bar."""
    from matplotlib.figure import Figure

    with style.drawing():
        figure = Figure(figsize=(style.WIDTH, 0.9 + 0.36 * len(judged)), layout="constrained")
        axes = figure.subplots()
        for row, value in enumerate(judged.values()):
            total = max(len(value.outcome), 1)
            left = 0.0
            for count, outcome, colour in zip(value.counts(), Outcome, style.OUTCOME_COLOURS, strict=True):
                share = 100 * count / total
                label = OUTCOME_TEXTS[outcome] if row == 0 else None
                axes.barh(row, share, 0.72, left, color=colour, edgecolor="white", linewidth=0.8, label=label)
                if share >= 3:
                    axes.text(
                        left + share / 2,
                        row,
                        f"{share:.0f}",
                        ha="center",
                        va="center",
                        color=style.readable_on(colour),
                        fontsize=8,
                    )
                left += share
        axes.set_yticks(range(len(judged)), list(judged))
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the surest detections (%)")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.legend(loc="outside upper left", ncols=len(Outcome), handlelength=1.2)
    return figure


def message(text: str) -> "Figure":
    """A picture that only says why there is no picture."""
    from matplotlib.figure import Figure

    with style.drawing():
        figure = Figure(figsize=(style.WIDTH, 0.6))
        figure.text(0.01, 0.5, text, va="center", color=style.FAINT)
    return figure


def _wrapped(names: Sequence[str]) -> list[str]:
    """Names broken at their separators, so that they fit over narrow columns."""
    longest = max(8, 100 // len(names))
    lines = []
    for name in names:
        broken, line = "", 0
        for part in name.replace("-", "-\0").replace("+", "+\0").split("\0"):
            if line and line + len(part) > longest:
                broken, line = broken + "\n", 0
            broken, line = broken + part, line + len(part)
        lines.append(broken)
    return lines
