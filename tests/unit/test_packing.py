"""Samples of many videos at once, and spans of videos packed into one sequence."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from avfusion.detectors.drawing import PoolTable
from avfusion.detectors.packing import FeatureBank, pack
from avfusion.detectors.sampling import BACKGROUND, FOREGROUND, INCOMPLETE, Pool, VideoPools, draw_sample

CPU = torch.device("cpu")
COUNTS = (1, 6, 1)


def pool(kind: int, size: int, rng: np.random.RandomState) -> Pool:
    rois = rng.randint(0, 999, (size, 4))
    targets = rng.standard_normal((size, 2)) * (kind == FOREGROUND)
    return Pool(kind, rois, rng.randint(1, 9, size) * (kind != BACKGROUND), targets)


def test_samples_drawn_at_once_are_those_of_one_draw_after_the_other() -> None:
    rng = np.random.RandomState(5)
    pools = []
    for _ in range(50):
        sizes = rng.randint(1, 300), rng.randint(0, 3) * 70, rng.randint(0, 3)  # some pools are empty
        three = (pool(kind, size, rng) for kind, size in enumerate(sizes))
        pools.append(VideoPools(*three, instances=1))
    assert any(len(video.incomplete) == 0 for video in pools)
    statistics = np.array([[0.1, -0.2], [0.5, 2.0]])
    videos = rng.randint(0, 50, 400)
    one, other = np.random.RandomState(7), np.random.RandomState(7)
    pool_table = PoolTable(pools, statistics, COUNTS)
    table = pool_table.at(pool_table.choose(videos, one))
    for k, video in enumerate(videos):
        wanted = draw_sample(pools[video], statistics, COUNTS, other)
        for name in ("rois", "kinds", "labels", "targets"):
            np.testing.assert_array_equal(getattr(table, name)[k], getattr(wanted, name))
    assert one.randint(1 << 30) == other.randint(1 << 30), "the same numbers have been used up"
    assert {FOREGROUND, INCOMPLETE, BACKGROUND} == set(table.kinds.ravel())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_two_convolutions_of_packed_spans_give_what_they_give_in_the_video(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=4))
    reach = data.draw(st.integers(0, 4))
    rng = np.random.RandomState(data.draw(st.integers(0, 99)))
    features = [rng.standard_normal((length, 2)).astype(np.float32) for length in lengths]
    bank = FeatureBank(features, CPU)
    count = data.draw(st.integers(1, 8))
    videos = rng.randint(0, len(lengths), count)
    first = np.array([rng.randint(0, lengths[v]) for v in videos])
    last = np.array([rng.randint(a + 1, lengths[v] + 1) for a, v in zip(first, videos, strict=True)])

    torch.manual_seed(0)
    kernels = torch.randn(2, 2, 2, 2 * reach + 1, dtype=torch.float64)
    bias = torch.ones(2, dtype=torch.float64)

    def network(values: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        for kernel in kernels:
            values = functional.conv1d(values, kernel, bias, padding=reach).relu() * inside
        return values

    packed = pack(bank, videos, np.stack([first, last], 1), reach, layers=2)
    got = network(packed.features.double(), packed.inside.double())[0]
    for video, a, b, shift in zip(videos, first, last, packed.shifts, strict=True):
        whole = torch.from_numpy(features[video]).double().T[None]
        wanted = network(whole, torch.ones(1, 1, lengths[video], dtype=torch.float64))[0]
        torch.testing.assert_close(got[:, a + shift : b + shift], wanted[:, a:b])
    assert packed.features.shape[2] % 64 == 0
    most = sum(lengths) + 2 * reach * len(lengths)
    assert packed.features.shape[2] < most + 64, "no snippet is computed twice"
