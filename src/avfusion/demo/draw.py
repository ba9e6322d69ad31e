"""The pictures of a demo video: a moving background, drifting blobs, sprites that act, noise."""

import colorsys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from avfusion.demo.scenes import Event, Scene
from avfusion.seeding import derive

Array = NDArray[np.float32]
PATCH = 96  # pixels of the square a sprite is painted on, once, before it is moved about
RADIUS = 40  # of a sprite on that square
MARGIN = 24  # pixels of noise and background beyond the picture on each side


@dataclass(frozen=True)
class Pose:
    """Where a sprite is in every frame: shift in picture heights, scale, angle in radians; (frames,) each."""

    dx: NDArray[np.float64]
    dy: NDArray[np.float64]
    scale: NDArray[np.float64]
    angle: NDArray[np.float64]


def frames(scene: Scene) -> Iterator[NDArray[np.uint8]]:
    """Draw a video frame by frame: uint8 (height, width, 3), RGB."""
    random = np.random.default_rng(derive(scene.seed, "pixels"))
    times = np.arange(scene.frames) / float(scene.fps)
    background = _Background(scene, times, random)
    actors: list[_Blob | _Actor] = [_Blob(scene, times, random) for _ in range(scene.clutter)]
    actors += [_Actor(event, times) for event in scene.events if event.sight]
    shape = (scene.height + MARGIN, scene.width + MARGIN, 3)
    noise = scene.noise * random.standard_normal(shape, dtype=np.float32)
    shifts = random.integers(0, MARGIN, size=(scene.frames, 2))
    for index, (top, left) in enumerate(shifts):
        picture = background.draw(index)
        for actor in actors:
            actor.draw(picture, index)
        picture += noise[top : top + scene.height, left : left + scene.width]
        yield np.clip(picture, 0, 255, out=picture).astype(np.uint8)


def pose(event: Event, times: NDArray[np.float64]) -> Pose:
    """How an event's sprite moves, at `times` in seconds."""
    if event.sight is None:
        raise ValueError(f"nothing moves in an event of kind '{event.kind}'")
    level = event.sight.level(times)
    cycle = 2 * np.pi * (event.tempo * (times - event.start) + event.phase)
    dx, dy, angle = np.zeros_like(level), np.zeros_like(level), np.zeros_like(level)
    scale = np.ones_like(level)
    match event.action.motion:
        case "bounce":
            dy = 0.12 * level * np.sin(cycle)
        case "sway":
            dx = 0.12 * level * np.sin(cycle)
        case "pulse":
            scale = 1 + 0.4 * level * np.sin(cycle)
        case "spin":
            # The angle is the integral of a speed that rises and falls, so that it never jumps.
            angle = np.cumsum(level * np.gradient(cycle)) * 0.3
        case "orbit":
            dx, dy = 0.09 * level * np.cos(cycle), 0.09 * level * np.sin(cycle)
        case other:
            raise ValueError(f"no such motion: {other}")
    return Pose(dx, dy, scale, angle)


class _Actor:
    """A sprite over the whole video: its patch, and where it stands in every frame in which it is seen."""

    def __init__(self, event: Event, times: NDArray[np.float64]) -> None:
        self._first = int(np.searchsorted(times, event.appears))
        self._last = int(np.searchsorted(times, event.leaves))
        self._pose = pose(event, times[self._first : self._last])
        self._patch = paint(event.action.sprite, event.tint)
        self._x, self._y, self._size = event.x, event.y, event.size

    def draw(self, picture: Array, index: int) -> None:
        if not self._first <= index < self._last:
            return
        height, width = picture.shape[:2]
        at = index - self._first
        zoom = self._size * height / RADIUS * self._pose.scale[at]
        x = width / 2 + (self._x + self._pose.dx[at]) * height
        y = height / 2 + (self._y + self._pose.dy[at]) * height
        _blend(picture, self._patch, x, y, zoom, self._pose.angle[at])


class _Blob:
    """A soft grey patch that drifts through the picture and means nothing."""

    def __init__(self, scene: Scene, times: NDArray[np.float64], random: np.random.Generator) -> None:
        grid = np.linspace(-1, 1, PATCH, dtype=np.float32)
        alpha = np.clip(1.2 - 1.6 * np.hypot(*np.meshgrid(grid, grid)), 0, 0.8).astype(np.float32)
        self._patch = np.dstack([alpha * random.uniform(40, 200)] * 3 + [alpha])
        self._zoom = random.uniform(0.1, 0.25) * scene.height / (PATCH / 2)
        speed, phase = random.uniform(0.04, 0.12, size=2), random.uniform(0, 2 * np.pi, size=2)
        self._path = 0.5 + 0.5 * np.sin(2 * np.pi * speed * times[:, None] + phase)

    def draw(self, picture: Array, index: int) -> None:
        height, width = picture.shape[:2]
        x, y = self._path[index]
        _blend(picture, self._patch, x * width, y * height, self._zoom, 0.0)


class _Background:
    """A smooth coloured texture, larger than the picture, over which a camera wanders."""

    def __init__(self, scene: Scene, times: NDArray[np.float64], random: np.random.Generator) -> None:
        self._size = (scene.width, scene.height)
        speed = random.uniform(0.05, 0.12, size=2)
        reach = np.minimum(scene.camera * scene.height / (2 * np.pi * speed), 4 * MARGIN)
        phase = random.uniform(0, 2 * np.pi, size=2)
        margin = np.ceil(reach) + 2
        self._path = margin + reach * np.sin(2 * np.pi * speed * times[:, None] + phase)
        width, height = (np.array(self._size) + 2 * margin).astype(int)
        texture = np.full((height, width, 3), 110, dtype=np.float32)
        for cells, strength in ((3, 30), (7, 20), (18, 14)):
            grain = random.standard_normal((cells, cells, 3), dtype=np.float32)
            texture += strength * cv2.resize(grain, (int(width), int(height)), interpolation=cv2.INTER_CUBIC)
        self._texture = texture

    def draw(self, index: int) -> Array:
        x, y = self._path[index]
        shift = np.array([[1, 0, -x], [0, 1, -y]])
        moved = cv2.warpAffine(self._texture, shift, self._size, flags=cv2.INTER_LINEAR)
        return moved.astype(np.float32, copy=False)


def _blend(picture: Array, patch: Array, x: float, y: float, zoom: float, angle: float) -> None:
    """Lay `patch` (premultiplied RGBA) over `picture` with its centre at (x, y), in place."""
    height, width = picture.shape[:2]
    reach = int(np.ceil(zoom * PATCH / 2 * (abs(np.cos(angle)) + abs(np.sin(angle))))) + 1
    left, right = max(int(x) - reach, 0), min(int(x) + reach + 1, width)
    top, bottom = max(int(y) - reach, 0), min(int(y) + reach + 1, height)
    if left >= right or top >= bottom:
        return
    cos, sin, middle = zoom * np.cos(angle), zoom * np.sin(angle), (PATCH - 1) / 2
    matrix = np.array(
        [
            [cos, -sin, x - left - middle * (cos - sin)],
            [sin, cos, y - top - middle * (sin + cos)],
        ]
    )
    size = (right - left, bottom - top)
    moved = cv2.warpAffine(patch, matrix, size, flags=cv2.INTER_AREA if zoom < 0.5 else cv2.INTER_LINEAR)
    region = picture[top:bottom, left:right]
    region *= 1 - moved[:, :, 3:]
    region += moved[:, :, :3]


def paint(sprite: str, tint: float) -> Array:
    """Paint a sprite: float32 (96, 96, 4), RGB times alpha (0 to 255) and alpha (0 to 1).

    Args:
        sprite: "ball", "box", "star", "ring" or "cross".
        tint: shift of its hue, -1 to 1.
    """
    hue, outline = _SPRITES[sprite]
    fine = 4  # painted larger and shrunk, for smooth edges
    mask = np.zeros((PATCH * fine, PATCH * fine), dtype=np.uint8)
    inner = np.zeros_like(mask)
    outline(mask, inner, PATCH * fine // 2, RADIUS * fine)
    size = (PATCH, PATCH)
    alpha = cv2.resize(mask, size, interpolation=cv2.INTER_AREA).astype(np.float32)[:, :, None] / 255
    mark = cv2.resize(inner, size, interpolation=cv2.INTER_AREA).astype(np.float32)[:, :, None] / 255
    colour = 255 * np.array(colorsys.hsv_to_rgb((hue + 0.04 * tint) % 1, 0.75, 0.95), dtype=np.float32)
    painted = colour * (1 - 0.65 * mark)  # the darker mark gives flow something to hold on to
    return np.concatenate([painted * alpha, alpha], axis=2).astype(np.float32)


Outline = Callable[[NDArray[np.uint8], NDArray[np.uint8], int, int], None]


def _ball(mask: NDArray[np.uint8], mark: NDArray[np.uint8], centre: int, radius: int) -> None:
    cv2.circle(mask, (centre, centre), radius, 255, -1)
    cv2.circle(mark, (centre - radius // 3, centre - radius // 4), radius // 3, 255, -1)


def _box(mask: NDArray[np.uint8], mark: NDArray[np.uint8], centre: int, radius: int) -> None:
    half = int(radius * 0.85)
    cv2.rectangle(mask, (centre - half, centre - half), (centre + half, centre + half), 255, -1)
    cv2.rectangle(mark, (centre - half, centre - half // 3), (centre + half, centre + half // 3), 255, -1)


def _star(mask: NDArray[np.uint8], mark: NDArray[np.uint8], centre: int, radius: int) -> None:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    reach = radius * 1.1 * np.where(np.arange(10) % 2, 0.45, 1)
    points = centre + np.stack([reach * np.cos(angles), reach * np.sin(angles)], axis=1)
    cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 255)
    cv2.circle(mark, (centre, centre), radius // 4, 255, -1)


def _ring(mask: NDArray[np.uint8], mark: NDArray[np.uint8], centre: int, radius: int) -> None:
    cv2.circle(mask, (centre, centre), radius, 255, -1)
    cv2.circle(mask, (centre, centre), radius // 2, 0, -1)
    cv2.ellipse(mark, (centre, centre), (radius, radius), 0, 0, 90, 255, -1)


def _cross(mask: NDArray[np.uint8], mark: NDArray[np.uint8], centre: int, radius: int) -> None:
    arm = radius // 3
    for half in ((radius, arm), (arm, radius)):
        cv2.rectangle(
            mask, (centre - half[0], centre - half[1]), (centre + half[0], centre + half[1]), 255, -1
        )
    cv2.rectangle(mark, (centre, centre - arm), (centre + radius, centre + arm), 255, -1)


_SPRITES: dict[str, tuple[float, Outline]] = {
    "ball": (0.07, _ball),
    "box": (0.58, _box),
    "star": (0.15, _star),
    "ring": (0.85, _ring),
    "cross": (0.38, _cross),
}
