"""Which snippets go through a network together.

Where any batch will do, pieces stay whole. Where all batches shall be alike (CUDA), pieces are divided and
joined so that every batch is full: a batch of runs of frames is one long clip, in which the windows that lie
across a joint are computed and thrown away.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Piece = TypeVar("Piece")


@dataclass(frozen=True)
class Part(Generic[Piece]):
    """Some snippets of a piece.

    Attributes:
        piece: that they are of.
        first: number of the first of them.
        count: how many.
    """

    piece: Piece
    first: int
    count: int


class Packer(Generic[Piece]):
    """Pieces that wait for a batch.

    Args:
        size: snippets of a batch.
        joint: snippets that lie across a joint of two pieces; None: pieces stay whole, and batches are of
            `size` snippets or more.
    """

    def __init__(self, size: int, joint: int | None = None) -> None:
        self._size, self._joint = size, joint
        self._waiting: deque[Part[Piece]] = deque()

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._waiting)

    def add(self, piece: Piece, count: int) -> None:
        """A piece of `count` snippets."""
        self._waiting.append(Part(piece, 0, count))

    @property
    def full(self) -> bool:
        """Whether a batch waits."""
        joints = (self._joint or 0) * (len(self._waiting) - 1)
        return sum(part.count for part in self._waiting) + joints >= self._size

    def take(self) -> list[Part[Piece]]:
        """The parts of the next batch, in the order of their pieces; what waits may be less than that."""
        if self._joint is None:
            whole, self._waiting = list(self._waiting), deque()
            return whole
        parts: list[Part[Piece]] = []
        room = self._size
        while self._waiting and room > 0:
            part = self._waiting.popleft()
            count = min(room, part.count)
            parts.append(Part(part.piece, part.first, count))
            if count < part.count:
                self._waiting.appendleft(Part(part.piece, part.first + count, part.count - count))
            room -= count + self._joint
        return parts


def places(parts: Sequence[Part[Piece]], joint: int) -> list[int]:
    """Number that the first snippet of each part has in the long clip."""
    starts, place = [], 0
    for part in parts:
        starts.append(place)
        place += part.count + joint
    return starts
