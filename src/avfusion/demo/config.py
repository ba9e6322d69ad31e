"""Options of the demo dataset: how much of it, in which formats, and how hard."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from avfusion.options import read_options, require

Range = tuple[float, float]  # smallest and largest


@dataclass(frozen=True)
class DemoConfig:
    """What the generator of the demo dataset can be told. Times are seconds.

    Attributes:
        train_videos: videos of the training subset.
        test_videos: videos of the test subset.
        duration: shortest and longest video.
        frame_rates: frames per second; videos take them in turn (23.976 stands for 24000/1001).
        sample_rates: of the sound in Hz, taken in turn.
        channels: of the sound (1 or 2), taken in turn.
        sizes: width and height of the picture in pixels (even numbers), taken in turn.
        instance: shortest and longest action.
        gap: shortest and longest pause between two events.
        silent_motion: motions of an action without its sound, per action instance.
        offscreen_sound: sounds of an action without its motion, per action instance.
        softness: seconds over which the soft modality of an action comes and goes (the crisp one switches).
        linger: shortest and longest time that a sprite stands still before and after it moves.
        radius: smallest and largest sprite, in picture heights.
        loudness: quietest and loudest sound of an action in dB.
        noise: standard deviation of the noise on every pixel (0 to 255).
        camera: speed at which the background moves, in picture heights per second.
        clutter: grey blobs that drift through the picture all the time.
        hiss: level of the background noise in dB; 0 is as loud as an action's sound at a loudness of 0.
        clicks: short knocks per second that mean nothing.
    """

    train_videos: int = 28
    test_videos: int = 16
    duration: Range = (34.0, 42.0)
    frame_rates: tuple[float, ...] = (25.0, 30.0, 24.0, 23.976)
    sample_rates: tuple[int, ...] = (44100, 48000, 22050)
    channels: tuple[int, ...] = (2, 1)
    sizes: tuple[tuple[int, int], ...] = ((96, 72), (104, 80), (80, 80))
    instance: Range = (1.5, 6.0)
    gap: Range = (0.6, 1.6)
    silent_motion: float = 0.25
    offscreen_sound: float = 0.25
    softness: float = 1.0
    linger: Range = (0.2, 1.0)
    radius: Range = (0.1, 0.18)
    loudness: Range = (-8.0, 0.0)
    noise: float = 10.0
    camera: float = 0.1
    clutter: int = 2
    hiss: float = -9.0
    clicks: float = 1.0

    def __post_init__(self) -> None:
        for name in ("train_videos", "test_videos"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        for name in ("duration", "instance", "gap", "linger"):
            span = getattr(self, name)
            ordered = len(span) == 2 and 0 <= span[0] <= span[1] < math.inf
            require(ordered, name, "must be two times in seconds, the shortest first")
        require(self.instance[0] > 0, "instance", "an action must last longer than 0 s")
        room = self.gap[0] + self.gap[1] + self.instance[1]
        require(
            room <= self.duration[0],
            "duration",
            f"a video must last {room:g} s, for the longest action and gaps",
        )
        for name in ("silent_motion", "offscreen_sound", "softness", "noise", "camera", "clutter", "clicks"):
            require(0 <= getattr(self, name) < math.inf, name, "must not be negative")
        fits = len(self.radius) == 2 and 0.02 <= self.radius[0] <= self.radius[1] <= 0.2
        require(fits, "radius", "must be two sizes from 0.02 to 0.2 picture heights, the smallest first")
        ordered = len(self.loudness) == 2 and -100 <= self.loudness[0] <= self.loudness[1] <= 10
        require(ordered, "loudness", "must be two levels from -100 to 10 dB, the quietest first")
        require(-100 <= self.hiss <= 100, "hiss", "must be from -100 to 100 dB")
        for name, low, high in (("frame_rates", 5, 120), ("sample_rates", 8000, 96000), ("channels", 1, 2)):
            values = getattr(self, name)
            within = bool(values) and all(low <= value <= high for value in values)
            require(within, name, f"must be a list of numbers from {low} to {high}")
        fit = all(len(s) == 2 and min(s) >= 32 and s[0] % 2 == s[1] % 2 == 0 for s in self.sizes)
        require(bool(self.sizes) and fit, "sizes", "must be a list of [width, height], even and at least 32")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str | Path = "demo") -> "DemoConfig":
        """Build the options from what a YAML file says of them; what it leaves out keeps its default.

        Raises:
            InputError: an option that does not exist, or a value that cannot be; it names `source`.
        """
        return read_options(cls, values, source, "media")


def exact_frame_rate(fps: float) -> Fraction:
    """The frame rate that `fps` stands for: NTSC rates such as 23.976 are multiples of 1000/1001."""
    ntsc = Fraction(round(fps) * 1000, 1001)
    if fps != round(fps) and abs(fps - ntsc) < 2e-3:
        return ntsc
    return Fraction(fps).limit_denominator(1000)
