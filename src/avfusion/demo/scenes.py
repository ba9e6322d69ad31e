"""What happens in every video of the demo dataset: a seeded script, without a single pixel.

An action is a motion AND its sound, at the same time. A motion without its sound, or a sound without
its motion, is a distractor and no instance.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from avfusion.data.annotations import Annotations, Instance, VideoAnnotation
from avfusion.demo.config import DemoConfig, exact_frame_rate
from avfusion.seeding import derive

Kind = Literal["action", "silent", "offscreen"]


@dataclass(frozen=True)
class Action:
    """A class: which sprite moves how and sounds how, and which of the two has the crisp boundaries."""

    sprite: str
    motion: str
    sound: str
    crisp: Literal["sight", "sound"]

    @property
    def label(self) -> str:
        """Name of the class in annotations, such as ``ball_bounce_beep``."""
        return f"{self.sprite}_{self.motion}_{self.sound}"


ACTIONS = (
    # Alike to look at, told apart by sound; and in pairs across (ball beep, box beep) the reverse.
    Action("ball", "bounce", "beep", crisp="sight"),
    Action("ball", "bounce", "rasp", crisp="sound"),
    Action("box", "sway", "beep", crisp="sound"),
    Action("box", "sway", "rasp", crisp="sight"),
    # Alike in motion and sound, told apart by appearance.
    Action("star", "pulse", "chirp", crisp="sight"),
    Action("ring", "pulse", "chirp", crisp="sound"),
    # Alike in appearance and sound, told apart by motion.
    Action("cross", "spin", "hum", crisp="sight"),
    Action("cross", "orbit", "hum", crisp="sound"),
)
LABELS = tuple(action.label for action in ACTIONS)
SUBSETS = ("train", "test")


@dataclass(frozen=True)
class Span:
    """When one modality of an event is on: it rises and falls over `ramp` seconds around start and end."""

    start: float
    end: float
    ramp: float

    def level(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far it is on (0 to 1) at `times` in seconds; one half at `start` and `end`."""
        ramp = max(self.ramp, 1e-6)
        rise = np.clip((times - self.start) / ramp + 0.5, 0, 1)
        return rise * np.clip((self.end - times) / ramp + 0.5, 0, 1)


@dataclass(frozen=True)
class Event:
    """An action or a distractor. Times are seconds, places and sizes are picture heights.

    Attributes:
        kind: "action", "silent" (motion alone) or "offscreen" (sound alone).
        label: class that it is, or that it imitates.
        start, end: of the event; for an action this is the annotated instance.
        sight, sound: when it moves and when it sounds; None if it does not.
        appears, leaves: when its sprite comes into the picture and goes.
        x, y: centre of the sprite relative to the centre of the picture.
        size: radius of the sprite.
        tempo: cycles of the motion per second; the sound follows the same beat.
        phase: of the motion, in cycles.
        tint: shift of the sprite's colour, -1 to 1.
        pitch: factor on the frequencies of the sound.
        gain: factor on its loudness.
        pan: place of the sound from left (-1) to right (1), heard in stereo videos only.
    """

    kind: Kind
    label: str
    start: float
    end: float
    sight: Span | None
    sound: Span | None
    appears: float
    leaves: float
    x: float
    y: float
    size: float
    tempo: float
    phase: float
    tint: float
    pitch: float
    gain: float
    pan: float

    @property
    def action(self) -> Action:
        """The class as motion, sprite and sound."""
        return ACTIONS[LABELS.index(self.label)]


@dataclass(frozen=True)
class Scene:
    """Everything that one video is made of; `render.render_video` turns it into an MP4."""

    id: str
    subset: str
    seed: int
    frames: int
    fps: Fraction
    width: int
    height: int
    sample_rate: int
    channels: int
    events: tuple[Event, ...]
    noise: float
    camera: float
    clutter: int
    hiss: float
    clicks: float

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return float(self.frames / self.fps)

    def fingerprint(self) -> str:
        """A hash of everything above: two scenes with the same one give the same video."""
        return hashlib.sha256(json.dumps(asdict(self), default=str).encode()).hexdigest()[:16]


def plan(config: DemoConfig, seed: int) -> dict[str, Scene]:
    """Write the script of the whole dataset.

    Args:
        config: how much of it, and how hard.
        seed: the same seed gives the same dataset; subsets and videos have random sequences of their own.

    Returns:
        Scenes by video id, the training subset first. Classes are dealt from a shuffled deck per subset, so
        that all occur about equally often.
    """
    scenes: dict[str, Scene] = {}
    for subset, count in zip(SUBSETS, (config.train_videos, config.test_videos), strict=True):
        decks = {
            kind: _deck(derive(seed, "demo", subset, kind)) for kind in ("action", "silent", "offscreen")
        }
        for index in range(count):
            scene = _scene(config, subset, index, derive(seed, "demo", subset, index), decks)
            scenes[scene.id] = scene
    return scenes


def annotations(scenes: Mapping[str, Scene]) -> Annotations:
    """The instances of every video (the distractors are none), as a dataset's annotations."""
    videos = {
        name: VideoAnnotation(
            subset=scene.subset,
            duration=scene.duration,
            instances=tuple(Instance(e.start, e.end, e.label) for e in scene.events if e.kind == "action"),
        )
        for name, scene in scenes.items()
    }
    return Annotations(videos=videos, labels=LABELS)


def _deck(seed: int) -> Iterator[str]:
    """Class labels without end, every class once before any comes again."""
    random = np.random.default_rng(seed)
    while True:
        for index in random.permutation(len(LABELS)):
            yield LABELS[index]


def _scene(config: DemoConfig, subset: str, index: int, seed: int, decks: dict[str, Iterator[str]]) -> Scene:
    random = np.random.default_rng(seed)
    fps = exact_frame_rate(config.frame_rates[index % len(config.frame_rates)])
    width, height = config.sizes[index % len(config.sizes)]
    frames = round(random.uniform(*config.duration) * fps)
    slots = _slots(config, float(frames / fps), random)
    kinds = _kinds(config, len(slots), random)
    events = [
        _event(config, *slot, kind, next(decks[kind]), random)
        for slot, kind in zip(slots, kinds, strict=True)
    ]
    return Scene(
        id=f"demo_{subset}_{index:04d}",
        subset=subset,
        seed=seed,
        frames=frames,
        fps=fps,
        width=width,
        height=height,
        # Rates and channels turn at different speeds, so that every combination comes up.
        sample_rate=config.sample_rates[index % len(config.sample_rates)],
        channels=config.channels[index // len(config.sample_rates) % len(config.channels)],
        events=tuple(events),
        noise=config.noise,
        camera=config.camera,
        clutter=config.clutter,
        hiss=config.hiss,
        clicks=config.clicks,
    )


def _slots(config: DemoConfig, duration: float, random: np.random.Generator) -> list[tuple[float, float]]:
    """Start and end of events that follow one another with pauses; lengths are log-uniform."""
    slots: list[tuple[float, float]] = []
    start = random.uniform(*config.gap)
    while True:
        length = float(np.exp(random.uniform(*np.log(config.instance))))
        if start + length + config.gap[0] > duration:
            return slots
        slots.append((round(start, 3), round(start + length, 3)))
        start += length + random.uniform(*config.gap)


def _kinds(config: DemoConfig, count: int, random: np.random.Generator) -> list[Kind]:
    """Kinds of `count` events: the configured shares of distractors, rounded at random, the rest actions."""
    whole = 1 + config.silent_motion + config.offscreen_sound
    silent = int(count * config.silent_motion / whole + random.random())
    offscreen = int(count * config.offscreen_sound / whole + random.random())
    kinds: list[Kind] = ["silent" for _ in range(silent)]
    kinds += ["offscreen" for _ in range(offscreen)]
    kinds = kinds[: max(count - 1, 0)]  # a video without an action would be of no use
    kinds += ["action" for _ in range(count - len(kinds))]
    return [kinds[i] for i in random.permutation(count)]


def _event(
    config: DemoConfig, start: float, end: float, kind: Kind, label: str, random: np.random.Generator
) -> Event:
    action = ACTIONS[LABELS.index(label)]
    ramp = min(config.softness * random.uniform(0.6, 1.4), end - start)
    spans = {
        modality: Span(start, end, 0.0 if modality == action.crisp else round(ramp, 3))
        for modality in ("sight", "sound")
    }
    before, after = random.uniform(*config.linger, size=2) + spans["sight"].ramp / 2
    tempo = random.uniform(1.3, 2.0)
    x, y = random.uniform(-0.16, 0.16, size=2)
    return Event(
        kind=kind,
        label=label,
        start=start,
        end=end,
        sight=None if kind == "offscreen" else spans["sight"],
        sound=None if kind == "silent" else spans["sound"],
        appears=start - before,
        leaves=end + after,
        x=x,
        y=y,
        size=random.uniform(*config.radius),
        tempo=tempo,
        phase=random.uniform(0, 1),
        tint=random.uniform(-1, 1),
        pitch=float(np.exp(random.uniform(-0.2, 0.2))),
        gain=10 ** (random.uniform(*config.loudness) / 20),
        pan=random.uniform(-1, 1),
    )
