"""Dealing videos to a training and a test subset, so that both have their share of every class."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from avfusion.data.instances import Annotations

TRAIN, TEST = "train", "test"
ALL, NOTHING = "\0all", "\0nothing"  # counted as if they were classes: every video, and those without any


def split(annotations: Annotations, share: float, seed: int) -> Annotations:
    """The same annotations, every video in the subset "train" or "test".

    Whole videos are dealt, so that nothing of a test video is seen in training. Iterative stratification
    (Sechidis et al. 2011): the class with the fewest videos left is dealt first, each video to the subset
    that still misses more of that class; a class with two videos or more should be in both.

    Args:
        share: of the videos that should be in the test subset, between 0 and 1.
        seed: the same seed gives the same split.
    """
    names = list(annotations.videos)
    order = np.random.RandomState(seed).permutation(len(names))
    left = {names[k]: _classes(annotations, names[k]) for k in order}
    missing = _shares(left, share)
    chosen: dict[str, str] = {}
    while left:
        counts = Counter(label for labels in left.values() for label in labels)
        rarest = min(counts, key=lambda label: (counts[label], label))
        for name in [name for name, labels in left.items() if rarest in labels]:
            subset = max((TRAIN, TEST), key=lambda s: (missing[s][rarest], missing[s][ALL]))
            chosen[name] = subset
            for label in {*left.pop(name), ALL}:
                missing[subset][label] -= 1
    videos = {name: replace(value, subset=chosen[name]) for name, value in annotations.videos.items()}
    return replace(annotations, videos=videos)


def _classes(annotations: Annotations, name: str) -> frozenset[str]:
    """Classes of a video, or `NOTHING`."""
    return frozenset(i.label for i in annotations.videos[name].instances) or frozenset({NOTHING})


def _shares(videos: Mapping[str, frozenset[str]], share: float) -> dict[str, dict[str, float]]:
    """Videos of every class, and of `ALL`, that each subset should get."""
    total = Counter(label for labels in videos.values() for label in labels)
    total[ALL] = len(videos)
    wanted: dict[str, dict[str, float]] = {TRAIN: {}, TEST: {}}
    for label, count in total.items():
        test = share * count if count < 2 else min(max(round(share * count), 1), count - 1)
        wanted[TEST][label], wanted[TRAIN][label] = test, count - test
    return wanted
