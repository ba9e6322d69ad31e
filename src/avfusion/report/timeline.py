"""The picture of a few videos: what happens in them, and what each experiment says happens."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from avfusion.data.annotations import Annotations
from avfusion.report import style
from avfusion.report.outcomes import Judged, Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

VIDEOS = 3
ROW_INCHES, TITLE_INCHES, LETTER_INCHES = 0.25, 0.62, 0.065
BAR_HEIGHT = 0.76  # of a row
MOST_LANES = 3  # how many detections of one row may overlap before they are drawn over each other

Bar = tuple[float, float, str, bool]  # start, end, label, right


def pick_videos(annotations: Annotations, count: int = VIDEOS) -> list[str]:
    """Videos worth a picture: those with most classes, then most instances, then first by name."""

    def worth(video: str) -> tuple[int, int, str]:
        instances = annotations.videos[video].instances
        return -len({instance.label for instance in instances}), -len(instances), video

    return sorted(annotations.videos, key=worth)[:count]


def timeline(annotations: Annotations, judged: Mapping[str, Judged], videos: Sequence[str]) -> "Figure":
    """Draw, per video, the instances and below them each experiment's surest detections.

    Args:
        annotations: the subset that the detections were judged on.
        judged: by experiment, in the order of the rows.
        videos: which ones to draw.
    """
    from matplotlib.figure import Figure

    colours = style.class_colours(_by_frequency(annotations, videos))
    rows = 1 + len(judged)
    with style.drawing():
        height = len(videos) * (TITLE_INCHES + ROW_INCHES * rows) + 0.5
        figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
        panels = figure.subplots(len(videos), 1, squeeze=False)[:, 0]
        drawn: set[str] = set()
        for axes, video in zip(panels, videos, strict=True):
            truth = sorted((i.start, i.end, i.label, True) for i in annotations.videos[video].instances)
            bars = {"truth": truth} | {name: _bars(value, video) for name, value in judged.items()}
            last = max((end for content in bars.values() for _, end, _, _ in content), default=1.0)
            axes.set_xlim(0, annotations.videos[video].duration or last)
            axes.set_ylim(rows - 0.5, -0.5)
            for row, content in enumerate(bars.values()):
                _draw_row(axes, row, content, colours)
                drawn |= {label for _, _, label, _ in content}
            axes.set_yticks(range(rows), list(bars))
            axes.get_yticklabels()[0].set_fontweight("bold")
            axes.set_title(video)
            axes.axhline(0.5, color=style.FAINT, linewidth=0.8)
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.grid(axis="x")
        panels[-1].set_xlabel("seconds")
        handles = _legend({label: colour for label, colour in colours.items() if label in drawn})
        figure.legend(handles=handles, loc="outside upper left", ncols=6, handlelength=1.2)
    return figure


def _by_frequency(annotations: Annotations, videos: Sequence[str]) -> list[str]:
    """All classes; if there are more than colours, those that happen most often in `videos` first."""
    if len(annotations.labels) <= len(style.CLASS_COLOURS):
        return list(annotations.labels)
    happen = Counter(i.label for video in videos for i in annotations.videos[video].instances)
    return sorted(annotations.labels, key=lambda label: -happen[label])


def _bars(judged: Judged, video: str) -> list[Bar]:
    return sorted(
        (float(start), float(end), label, bool(outcome == Outcome.FOUND))
        for name, label, (start, end), outcome in zip(
            judged.video, judged.label, judged.segment, judged.outcome, strict=True
        )
        if name == video
    )


def _legend(colours: Mapping[str, str]) -> "list[Patch]":
    from matplotlib.patches import Patch

    own = [Patch(color=colour, label=label) for label, colour in colours.items() if colour != style.OTHER]
    others = [Patch(color=style.OTHER, label="other classes")] if style.OTHER in colours.values() else []
    return [*own, *others, Patch(facecolor="white", edgecolor=style.INK, label="not right")]


def _draw_row(axes: "Axes", row: int, bars: Sequence[Bar], colours: Mapping[str, str]) -> None:
    span = axes.get_xlim()[1]
    for (start, end, label, right), (lane, lanes) in zip(bars, _lanes(bars), strict=True):
        colour = colours.get(label, style.OTHER)
        height = BAR_HEIGHT / lanes
        axes.barh(
            row - BAR_HEIGHT / 2 + lane * height,
            end - start,
            height,
            start,
            align="edge",
            facecolor=colour if right else "white",
            edgecolor="white" if right else colour,
            linewidth=0.6 if right else 1.2,
        )
        if lanes == 1 and (end - start) / span * style.WIDTH > LETTER_INCHES * (len(label) + 3):
            ink = style.readable_on(colour) if right else style.INK
            middle = (start + end) / 2
            axes.text(middle, row, label, ha="center", va="center", fontsize=7, color=ink, clip_on=True)


def _lanes(bars: Sequence[Bar]) -> list[tuple[int, int]]:
    """Lane of each bar (sorted by start) and number of lanes there: bars that overlap get one each."""
    lanes: list[tuple[int, int]] = []
    group: list[int] = []  # lanes of the bars that hang together by overlaps
    ends: list[float] = []  # where the last bar of each lane ends
    for start, end, _, _ in bars:
        if group and start >= max(ends):
            lanes += [(lane, len(ends)) for lane in group]
            group, ends = [], []
        free = next((lane for lane, until in enumerate(ends) if until <= start), len(ends))
        if free == MOST_LANES:
            free -= 1  # drawn over each other
        ends[free : free + 1] = [max([end, *ends[free : free + 1]])]
        group.append(free)
    return lanes + [(lane, len(ends)) for lane in group]
