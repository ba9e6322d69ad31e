"""Which snippets go together: all of them, once, in their order, and never more than a batch holds."""

import random

from avfusion.backbones.packing import Packer, Part, places


def batches(counts: list[int], size: int, joint: int | None) -> list[list[Part[int]]]:
    packer: Packer[int] = Packer(size, joint)
    found = []
    for piece, count in enumerate(counts):
        packer.add(piece, count)
        while packer.full:
            found.append(packer.take())
    while packer:
        found.append(packer.take())
    return found


def test_pieces_stay_whole_without_a_joint() -> None:
    assert batches([3, 3, 9, 1], 5, None) == [
        [Part(0, 0, 3), Part(1, 0, 3)],
        [Part(2, 0, 9)],
        [Part(3, 0, 1)],
    ]


def test_by_hand() -> None:
    # 4 + joint 1 + 3 of 5 fill a batch of 8; then 2 + 1 + 4 and, without room for another, the end.
    found = batches([4, 5, 4], 8, 1)
    assert found == [[Part(0, 0, 4), Part(1, 0, 3)], [Part(1, 3, 2), Part(2, 0, 4)]]
    assert places(found[0], 1) == [0, 5]
    assert places(found[1], 1) == [0, 3]


def test_every_snippet_goes_once_and_batches_are_full() -> None:
    draw = random.Random(0)
    for _ in range(200):
        counts = [draw.randint(1, 30) for _ in range(draw.randint(1, 8))]
        size, joint = draw.randint(1, 20), draw.randint(0, 7)
        found = batches(counts, size, joint)
        seen = [(part.piece, part.first + i) for batch in found for part in batch for i in range(part.count)]
        assert seen == [(piece, i) for piece, count in enumerate(counts) for i in range(count)]
        for index, batch in enumerate(found):
            ends = [start + part.count for start, part in zip(places(batch, joint), batch, strict=True)]
            assert ends[-1] <= size
            assert ends[-1] + joint >= size or index == len(found) - 1


def test_a_batch_waits_until_it_is_full() -> None:
    packer: Packer[str] = Packer(6, joint=2)
    packer.add("a", 2)
    assert packer and not packer.full
    packer.add("b", 2)
    assert packer.full  # 2 + 2 + 2
    packer.take()
    assert not packer and not packer.full
