"""The shuffled-label control."""

import pytest

from avfusion.data.annotations import Annotations, Instance, VideoAnnotation
from avfusion.engine.control import shuffle_labels
from avfusion.errors import InputError


def numbered(count: int, duration: float | None = None) -> Annotations:
    videos = {
        f"v{k}": VideoAnnotation("train", duration or 10.0 * (k + 1), (Instance(1.0, 2.0, f"label{k}"),))
        for k in range(count)
    }
    return Annotations(videos, tuple(f"label{k}" for k in range(count)))


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("seed", range(5))
def test_every_list_goes_to_another_video(count: int, seed: int) -> None:
    dealt = shuffle_labels(numbered(count), seed)
    labels = [video.instances[0].label for video in dealt.videos.values()]
    assert sorted(labels) == sorted(f"label{k}" for k in range(count))
    assert all(label != f"label{k}" for k, label in enumerate(labels))
    assert list(dealt.videos) == [f"v{k}" for k in range(count)]


def test_times_are_stretched_to_the_new_video() -> None:
    dealt = shuffle_labels(numbered(2), 0)
    assert [(i.start, i.end) for i in dealt.videos["v0"].instances] == [(0.5, 1.0)]
    assert [(i.start, i.end) for i in dealt.videos["v1"].instances] == [(2.0, 4.0)]


def test_one_seed_one_deal() -> None:
    annotations = numbered(10)
    assert shuffle_labels(annotations, 1) == shuffle_labels(annotations, 1) != shuffle_labels(annotations, 2)


def test_one_video_cannot_be_shuffled() -> None:
    with pytest.raises(InputError, match="no other one"):
        shuffle_labels(numbered(1), 0)
