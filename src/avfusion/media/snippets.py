"""What a snippet is: which frames it sees, and where that lies in time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from avfusion.data.features import TimeAxis
from avfusion.errors import InputError

MAX_FPS = 1000.0

VGGISH_EXAMPLE = 0.96  # seconds that one VGGish example sees
TAL_HMO_WINDOW = 1.2  # seconds of a snippet of tal-hmo
# Window and stride in frames of published I3D features.
PRESETS = {
    "64/8": (64, 8),  # P-GCN, MUSES
    "16/4": (16, 4),  # the THUMOS14 features of one-stage detectors since ActionFormer
    "16/8": (16, 8),
}
NO_MOTION = 128  # of flow in eight bits
Crops = Literal["centre", "ten"]
_SAME = 1e-6


@dataclass(frozen=True)
class SnippetGeometry:
    """Snippets of a visual stream, in frames of its time grid.

    Snippet i sees frames ``i * stride`` to ``i * stride + window - 1``; the first begins with the track.
    As many snippets as fit wholly; a video shorter than one window gives one snippet, filled up by
    repeating its last frame.

    The defaults are the published geometry of the I3D features of P-GCN and MUSES.

    Attributes:
        window: frames that one snippet sees.
        stride: frames from one snippet to the next.
        fps: frames per second of the grid; None: the average rate of each video's own track.
        size: pixels of the square that the network sees.
        short_side: pixels of the shorter side to which frames are scaled before; None: `size`.
        crops: "centre": the middle square; "ten": the mean over the middle, the four corners, and the mirror
            images of these five.
    """

    window: int = 64
    stride: int = 8
    fps: float | None = None
    size: int = 224
    short_side: int | None = None
    crops: Crops = "centre"

    def __post_init__(self) -> None:
        for field in ("window", "stride", "size"):
            if getattr(self, field) < 1:
                raise InputError("snippets", f"must be at least 1, not {getattr(self, field)}", field)
        if self.fps is not None and not 0 < self.fps <= MAX_FPS:
            raise InputError("snippets", f"must be above 0 and at most {MAX_FPS:g}, not {self.fps}", "fps")
        if self.short_side is not None and self.short_side < self.size:
            problem = f"must be at least the size, {self.size}, not {self.short_side}"
            raise InputError("snippets", problem, "short_side")
        if self.crops not in ("centre", "ten"):
            raise InputError("snippets", f"must be centre or ten, not '{self.crops}'", "crops")

    @property
    def scale(self) -> int:
        """Pixels of the shorter side after scaling."""
        return self.size if self.short_side is None else self.short_side

    def count(self, frames: int) -> int:
        """Snippets of a video with `frames` frames on its grid."""
        return max(1, (frames - self.window) // self.stride + 1) if frames else 0

    def axis(self, start: float, fps: float) -> TimeAxis:
        """Time axis of a track whose grid begins at second `start` and has `fps` frames per second."""
        window = self.window / fps
        return TimeAxis(first=start + window / 2, stride=self.stride / fps, window=window)


@dataclass(frozen=True)
class AudioGeometry:
    """Snippets of the sound track, in seconds.

    On a grid of its own, snippets follow each other from time zero on, `stride` apart, and the rest that
    fills no window is left out (VGGish's front end does so); a shorter track is filled up with silence to
    one snippet. If the grid follows a visual stream, there is one snippet for each of its own:

    - scheme "centred": around its centre in time, and silence where there is no sound;
    - scheme "tal-hmo", as published there: the sound is divided by the *number* of visual snippets, snippet
      i is 1.2 s around the end of part i, and VGGish hears the first 0.96 s of it. What lies outside the
      sound is cut off, and the rest moved to the front (`avfusion.media.log_mel.published_windows`).

    Attributes:
        window: seconds that one snippet sees, at least 0.96.
        stride: seconds from one snippet to the next; None: `window`. Not used if the grid follows.
        follow: geometry of the visual stream whose grid to follow; None: a grid of its own.
        scheme: where snippets that follow a visual stream lie: "centred" or "tal-hmo".
    """

    window: float = VGGISH_EXAMPLE
    stride: float | None = None
    follow: SnippetGeometry | None = None
    scheme: Literal["centred", "tal-hmo"] = "centred"

    def __post_init__(self) -> None:
        if self.window < VGGISH_EXAMPLE - _SAME:
            problem = f"VGGish sees at least {VGGISH_EXAMPLE} s, not {self.window}"
            raise InputError("snippets", problem, "window")
        if self.stride is not None and self.stride <= 0:
            raise InputError("snippets", f"must be above 0, not {self.stride}", "stride")
        if self.scheme not in ("centred", "tal-hmo"):
            raise InputError("snippets", f"must be centred or tal-hmo, not '{self.scheme}'", "scheme")
        if self.scheme == "tal-hmo":
            if self.follow is None:
                raise InputError("snippets", "tal-hmo needs the grid of a visual stream", "scheme")
            if self.window != TAL_HMO_WINDOW:
                problem = f"tal-hmo has snippets of {TAL_HMO_WINDOW} s, not {self.window}"
                raise InputError("snippets", problem, "window")

    def axis(self, visual: TimeAxis | None = None) -> TimeAxis:
        """Time axis of the snippets; `visual` is the axis to follow."""
        if self.follow is None:
            return TimeAxis(self.window / 2, self.window if self.stride is None else self.stride, self.window)
        if visual is None:
            raise ValueError("the grid of the sound follows a visual stream: its time axis is needed")
        return TimeAxis(visual.first, visual.stride, self.window)


class Run:
    """Consecutive windows in one array that is not put together yet: whoever reads it says where to.

    Attributes:
        parts: arrays of one shape, such as frames.
        windows: snippets in them.
    """

    def __init__(self, parts: Sequence[NDArray[Any]], windows: int) -> None:
        self.parts, self.windows = parts, windows

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all parts together: (T, ...)."""
        return (len(self.parts), *self.parts[0].shape)

    @property
    def dtype(self) -> "np.dtype[Any]":
        """Of every part."""
        return self.parts[0].dtype

    def copy_to(self, target: NDArray[Any]) -> None:
        """Fill an array of that shape."""
        np.stack(self.parts, out=target)

    def stacked(self) -> NDArray[Any]:
        """In a new array."""
        return np.stack(self.parts)


class WindowBuffer:
    """Runs of overlapping windows over frames that come one by one.

    A run holds the frames of `windows` windows once: it is ``window + (windows - 1) * stride`` frames long.

    Args:
        geometry: window and stride.
        windows: of a run; the last one may have fewer.
        following: frames that a run has besides, of those behind its last window, for what is computed from
            a frame and the next. Where the video ends there are fewer, and nothing is filled up.
    """

    def __init__(self, geometry: SnippetGeometry, windows: int = 1, following: int = 0) -> None:
        self._window, self._stride, self._windows = geometry.window, geometry.stride, windows
        self._following = following
        self._held: list[NDArray[np.uint8]] = []
        self._skip = 0  # frames to come that no window sees (strides larger than the window)
        self._given = False

    def push(self, frame: NDArray[np.uint8]) -> Iterator[Run]:
        """Add a frame; gives the run that it completes, if it does."""
        if self._skip:
            self._skip -= 1
            return
        self._held.append(frame)
        if len(self._held) == self._window + (self._windows - 1) * self._stride + self._following:
            yield self._take(self._windows)

    def finish(self) -> Iterator[Run]:
        """The last run, if there is one; of a video shorter than a window, its last frame is repeated."""
        whole = (len(self._held) - self._window) // self._stride + 1
        if whole > 0:
            yield self._take(whole)
        elif self._held and not self._given:
            if not self._following:
                self._held += self._held[-1:] * (self._window - len(self._held))
            yield self._take(1)

    def _take(self, windows: int) -> Run:
        run = self._held[: self._window + (windows - 1) * self._stride + self._following]
        past = windows * self._stride
        self._skip = max(0, past - len(self._held))
        del self._held[:past]
        self._given = True
        return Run(run, windows)
