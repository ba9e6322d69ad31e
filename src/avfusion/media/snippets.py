"""What a snippet is: which frames it sees, and where that lies in time."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avfusion.data.features import TimeAxis
from avfusion.errors import InputError

MAX_FPS = 1000.0

VGGISH_EXAMPLE = 0.96  # seconds that one VGGish example sees
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
        size: pixels of the square that the network sees, cut from the middle.
        short_side: pixels of the shorter side to which frames are scaled before; None: `size`.
    """

    window: int = 64
    stride: int = 8
    fps: float | None = None
    size: int = 224
    short_side: int | None = None

    def __post_init__(self) -> None:
        for field in ("window", "stride", "size"):
            if getattr(self, field) < 1:
                raise InputError("snippets", f"must be at least 1, not {getattr(self, field)}", field)
        if self.fps is not None and not 0 < self.fps <= MAX_FPS:
            raise InputError("snippets", f"must be above 0 and at most {MAX_FPS:g}, not {self.fps}", "fps")
        if self.short_side is not None and self.short_side < self.size:
            problem = f"must be at least the size, {self.size}, not {self.short_side}"
            raise InputError("snippets", problem, "short_side")

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
    one snippet. If the grid follows a visual stream, there is one snippet around each of its centres, and
    silence where there is no sound.

    Attributes:
        window: seconds that one snippet sees, at least 0.96.
        stride: seconds from one snippet to the next; None: `window`. Not used if the grid follows.
        follow: geometry of the visual stream whose grid to follow; None: a grid of its own.
    """

    window: float = VGGISH_EXAMPLE
    stride: float | None = None
    follow: SnippetGeometry | None = None

    def __post_init__(self) -> None:
        if self.window < VGGISH_EXAMPLE - _SAME:
            problem = f"VGGish sees at least {VGGISH_EXAMPLE} s, not {self.window}"
            raise InputError("snippets", problem, "window")
        if self.stride is not None and self.stride <= 0:
            raise InputError("snippets", f"must be above 0, not {self.stride}", "stride")

    def axis(self, visual: TimeAxis | None = None) -> TimeAxis:
        """Time axis of the snippets; `visual` is the axis to follow."""
        if self.follow is None:
            return TimeAxis(self.window / 2, self.window if self.stride is None else self.stride, self.window)
        if visual is None:
            raise ValueError("the grid of the sound follows a visual stream: its time axis is needed")
        return TimeAxis(visual.first, visual.stride, self.window)


class WindowBuffer:
    """Sliding windows over frames that come one by one; holds one window of frames."""

    def __init__(self, geometry: SnippetGeometry) -> None:
        self._geometry = geometry
        self._held: deque[NDArray[np.uint8]] = deque(maxlen=geometry.window)
        self._frames = 0

    def push(self, frame: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """Add a frame; gives the window (T, ...) that it completes, if it does."""
        self._held.append(frame)
        self._frames += 1
        past = self._frames - self._geometry.window
        if past >= 0 and past % self._geometry.stride == 0:
            yield np.stack(self._held)

    def finish(self) -> Iterator[NDArray[np.uint8]]:
        """The one window of a video shorter than that, its last frame repeated; else nothing."""
        if 0 < self._frames < self._geometry.window:
            held = list(self._held)
            yield np.stack(held + held[-1:] * (self._geometry.window - len(held)))
