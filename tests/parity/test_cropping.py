"""Windows of fixed length: where they lie and what is in them, against the published code."""

from pathlib import Path

import numpy as np
import pytest

from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.detectors.base import Video
from avfusion.engine.cropping import crop, cut, window_starts


def test_windows_are_those_of_the_published_code(golden: Path) -> None:
    with np.load(golden / "muses" / "crop_windows.npz", allow_pickle=False) as data:
        features, windows = data["features"], {k: data[k] for k in data.files if k.startswith("window/")}
    starts = [int(name.split("_")[-2]) for name in windows]
    assert sorted(starts) == sorted(window_starts(len(features), 20))
    for name, start in zip(windows, starts, strict=True):
        np.testing.assert_array_equal(cut(features, start, 20), windows[name].T)


@pytest.mark.parametrize(
    ("snippets", "size", "starts"),
    [(53, 20, [0, 20, 40, 33, 13]), (40, 20, [0, 20]), (20, 20, [0]), (5, 20, [0]), (21, 20, [0, 20, 1])],
)
def test_where_windows_lie(snippets: int, size: int, starts: list[int]) -> None:
    assert window_starts(snippets, size) == starts


def video(
    instances: list[tuple[float, float]], proposals: list[tuple[float, float]], snippets: int = 53
) -> Video:
    values = np.arange(snippets, dtype=np.float32)[:, None].repeat(3, 1)
    features = VideoFeatures(values, TimeAxis(0.25, 0.5, 1.0), (2, 1))
    segments = [np.array(s, dtype=np.float64).reshape(-1, 2) for s in (proposals, instances)]
    return Video("v", features, *segments, np.arange(len(instances), dtype=np.int64))


def test_windows_keep_the_time_of_their_video() -> None:
    parts = {part.name: part for part in crop(video([(11.0, 14.0)], [(10.5, 13.0), (1.0, 2.0)]), 20)}
    assert list(parts) == ["v[0:20]", "v[20:40]", "v[13:33]"]
    part = parts["v[20:40]"]
    assert part.features.axis == TimeAxis(10.25, 0.5, 1.0)
    assert part.features.values[0, 0] == 20 and part.features.widths == (2, 1)
    np.testing.assert_array_equal(part.instances, [[11.0, 14.0]])
    np.testing.assert_array_equal(part.proposals, [[10.5, 13.0]])
    np.testing.assert_array_equal(parts["v[0:20]"].proposals, [[1.0, 2.0]])
    assert len(parts["v[0:20]"].instances) == 0


def test_segments_are_cut_at_the_ends_and_those_that_lie_mostly_elsewhere_left_out() -> None:
    parts = {part.name: part for part in crop(video([(8.0, 11.0), (9.0, 19.0)], []), 20)}
    np.testing.assert_array_equal(parts["v[0:20]"].instances, [[8.0, 10.0]])
    np.testing.assert_array_equal(parts["v[0:20]"].classes, [0])
    np.testing.assert_array_equal(parts["v[20:40]"].instances, [[10.0, 19.0]])
    np.testing.assert_array_equal(parts["v[20:40]"].classes, [1])


def test_a_short_video_stays_as_it_is() -> None:
    short = video([(1.0, 2.0)], [], snippets=20)
    assert list(crop(short, 20)) == [short]
