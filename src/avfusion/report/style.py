"""How the pictures look: colours that colour-blind people tell apart too, and the same bytes every time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

from avfusion.report.results import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 11.0  # inches; at 100 points per inch the 1,100 pixels of the report's page
INK, FAINT = "#1f2933", "#8a94a0"

# Okabe and Ito's palette for streams (one hue each) and fusions, then Tol's muted one; Petroff's colours for
# classes.
STREAM_COLOURS = {"rgb": "#e69f00", "flow": "#009e73", "audio": "#56b4e9"}
FUSION_COLOURS = (
    *("#cc79a7", "#0072b2", "#d55e00", "#332288", "#7f7f7f", "#000000"),
    *("#999933", "#882255", "#44aa99", "#ddcc77", "#117733", "#aa4499"),
)
CLASS_COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#832db6", "#92dadd"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581"),
)
OTHER = "#c3c9cf"
GAIN, LOSS = "#0072b2", "#d55e00"
OUTCOME_COLOURS = ("#117733", "#ddcc77", "#cc6677", "#88ccee", "#c3c9cf")

_SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#dde2e7",
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "avfusion",  # else element ids, and with them the bytes, differ from run to run
    "svg.fonttype": "path",
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in our style, whatever matplotlib's settings on this machine are."""
    import matplotlib.style

    with matplotlib.style.context(["default", _SETTINGS]):
        yield


def to_svg(figure: "Figure") -> str:
    """The figure as SVG text, the same bytes for the same figure (no time stamp, fixed ids)."""
    with drawing():
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None}, bbox_inches="tight", pad_inches=0.08)
    return text.getvalue()


def experiment_colours(results: Sequence[Result]) -> list[str]:
    """A colour per experiment: the stream's own for the first of a single stream, spare ones for the rest."""
    taken: set[str] = set()
    colours = []
    spare = 0
    for result in results:
        colour = "" if result.fused else STREAM_COLOURS.get(result.row.streams[0], "")
        if not colour or colour in taken:
            colour = FUSION_COLOURS[spare % len(FUSION_COLOURS)]
            spare += 1
        taken.add(colour)
        colours.append(colour)
    return colours


def distinct(count: int) -> list[str]:
    """`count` colours that can be told apart; they begin anew where there are not so many."""
    return [FUSION_COLOURS[k % len(FUSION_COLOURS)] for k in range(count)]


def class_colours(labels: Sequence[str]) -> dict[str, str]:
    """A colour per class; where there are more classes than colours, the last ones are all grey."""
    return {label: CLASS_COLOURS[k] if k < len(CLASS_COLOURS) else OTHER for k, label in enumerate(labels)}


def readable_on(colour: Any) -> str:
    """Black or white, whichever stands out on a colour (anything that matplotlib takes for one)."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
