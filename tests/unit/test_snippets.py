"""Which frames a snippet sees, and where it lies in time."""

import numpy as np
import pytest

from avfusion.data.features import TimeAxis
from avfusion.errors import InputError
from avfusion.media.snippets import AudioGeometry, SnippetGeometry, WindowBuffer


@pytest.mark.parametrize(
    ("frames", "count"), [(0, 0), (1, 1), (63, 1), (64, 1), (71, 1), (72, 2), (355, 37), (1000, 118)]
)
def test_published_number_of_snippets(frames: int, count: int) -> None:
    assert SnippetGeometry().count(frames) == count


def test_axis_is_in_seconds_from_the_container() -> None:
    axis = SnippetGeometry(window=64, stride=8).axis(start=0.5, fps=25)
    assert (axis.first, axis.stride, axis.window) == pytest.approx((0.5 + 1.28, 0.32, 2.56))
    assert axis.end(2) == pytest.approx(0.5 + 72 / 25)


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 11, 12, 30])
def test_windows_are_the_frames_that_the_geometry_says(frames: int) -> None:
    geometry = SnippetGeometry(window=4, stride=3)
    buffer = WindowBuffer(geometry)
    images = (np.arange(frames)[:, None, None] * np.ones((1, 2, 2))).astype(np.uint8)
    runs = [run for image in images for run in buffer.push(image)] + list(buffer.finish())
    windows = [run.stacked() for run in runs]
    assert len(windows) == geometry.count(frames)
    padded = np.concatenate([np.arange(frames), [frames - 1] * 4])
    for i, window in enumerate(windows):
        assert window.shape == (4, 2, 2)
        assert list(window[:, 0, 0]) == list(padded[3 * i : 3 * i + 4])


@pytest.mark.parametrize("stride", [5, 9])
def test_strides_longer_than_the_window_leave_gaps(stride: int) -> None:
    buffer = WindowBuffer(SnippetGeometry(window=4, stride=stride))
    runs = [run for i in range(30) for run in buffer.push(np.array(i, np.uint8))]
    assert [int(run.parts[0]) for run in runs] == list(range(0, 27, stride))


def test_the_frame_that_follows_a_run_comes_with_it() -> None:
    def runs(count: int, stride: int, windows: int) -> list[tuple[list[int], int]]:
        buffer = WindowBuffer(SnippetGeometry(window=4, stride=stride), windows, following=1)
        found = [run for i in range(count) for run in buffer.push(np.array(i, np.uint8))]
        return [(run.stacked().tolist(), run.windows) for run in [*found, *buffer.finish()]]

    assert runs(10, 2, 2) == [([0, 1, 2, 3, 4, 5, 6], 2), ([4, 5, 6, 7, 8, 9], 2)]
    assert runs(9, 2, 2) == [([0, 1, 2, 3, 4, 5, 6], 2), ([4, 5, 6, 7, 8], 1)]
    assert runs(5, 1, 2) == [([0, 1, 2, 3, 4], 2)]
    assert runs(6, 1, 2) == [([0, 1, 2, 3, 4, 5], 2), ([2, 3, 4, 5], 1)]
    assert runs(11, 6, 1) == [([0, 1, 2, 3, 4], 1), ([6, 7, 8, 9, 10], 1)]
    assert runs(3, 2, 2) == [([0, 1, 2], 1)]  # not filled up


def test_no_frames_no_window() -> None:
    assert list(WindowBuffer(SnippetGeometry()).finish()) == []


def test_sound_has_a_grid_of_its_own_or_follows() -> None:
    own = AudioGeometry().axis()
    assert (own.first, own.stride, own.window) == pytest.approx((0.48, 0.96, 0.96))
    assert AudioGeometry(stride=0.48).axis().stride == 0.48
    following = AudioGeometry(window=1.2, follow=SnippetGeometry())
    assert following.axis(TimeAxis(1.0, 0.25, 2.5)) == TimeAxis(1.0, 0.25, 1.2)
    with pytest.raises(ValueError, match="time axis is needed"):
        following.axis()


@pytest.mark.parametrize(
    "options",
    [{"window": 0}, {"stride": 0}, {"fps": 0.0}, {"fps": 1e6}, {"size": 0}, {"size": 224, "short_side": 200}],
)
def test_impossible_geometry(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=list(options)[-1]):
        SnippetGeometry(**options)  # type: ignore[arg-type]


def test_impossible_sound_geometry() -> None:
    with pytest.raises(ValueError, match=r"window: VGGish sees at least 0\.96 s"):
        AudioGeometry(window=0.5)
    with pytest.raises(ValueError, match="above 0"):
        AudioGeometry(stride=0)
