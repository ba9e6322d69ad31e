"""Controls: experiments that must fail."""

from dataclasses import replace

import numpy as np

from avfusion.data.annotations import Annotations, VideoAnnotation
from avfusion.errors import InputError


def shuffle_labels(annotations: Annotations, seed: int) -> Annotations:
    """Deal every video the instances of another one, so that what happens no longer belongs to what is shown.

    A detector trained on this can learn what actions are like on average, and nothing of how they look or
    sound; if it still finds them in test videos, something leaks. No video keeps its own instances (the
    permutation is one cycle). Times are stretched to the length of the video that receives them, where both
    lengths are known.

    Args:
        annotations: of the training subset.
        seed: of the permutation.

    Raises:
        InputError: fewer than two videos.
    """
    names = list(annotations.videos)
    if len(names) < 2:
        raise InputError(annotations.source, "one video has no other one to exchange annotations with")
    cycle = np.random.RandomState(seed).permutation(len(names))
    giver = {names[to]: names[source] for to, source in zip(cycle, np.roll(cycle, 1), strict=True)}
    videos = {
        name: _stretched(annotations.videos[giver[name]], own) for name, own in annotations.videos.items()
    }
    return replace(annotations, videos=videos)


def _stretched(giver: VideoAnnotation, receiver: VideoAnnotation) -> VideoAnnotation:
    factor = 1.0
    if giver.duration is not None and receiver.duration is not None:
        factor = receiver.duration / giver.duration
    instances = tuple(replace(i, start=i.start * factor, end=i.end * factor) for i in giver.instances)
    return replace(receiver, instances=instances)
