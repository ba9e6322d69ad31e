"""Which action happens when, in memory; `avfusion.data.annotations` reads and writes it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from avfusion.errors import InputError, did_you_mean


@dataclass(frozen=True, slots=True)
class Instance:
    """One action: `start` and `end` in seconds from the start of the video, and the name of its class."""

    start: float
    end: float
    label: str


@dataclass(frozen=True, slots=True)
class VideoAnnotation:
    """What is known of one video: its subset, its length in seconds (None: unknown) and its instances."""

    subset: str
    duration: float | None
    instances: tuple[Instance, ...] = ()


@dataclass(frozen=True)
class Annotations:
    """Annotated videos of a dataset, or of one subset of it.

    Attributes:
        videos: annotation by video id, in the order of the file. Videos without instances are in it.
        labels: names of all classes of the dataset, also of those without an instance in this subset.
        source: the file, for messages.
        elsewhere: ids of the videos of the dataset that are in other subsets.
        places: where in the file each video is named first, such as "line 7", if that is known.
    """

    videos: Mapping[str, VideoAnnotation]
    labels: tuple[str, ...]
    source: str = "annotations"
    elsewhere: frozenset[str] = field(default=frozenset(), repr=False)
    places: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def subsets(self) -> dict[str, int]:
        """Number of videos of every subset."""
        return dict(Counter(video.subset for video in self.videos.values()))

    def subset(self, name: str) -> "Annotations":
        """Only the videos of one subset; the labels stay those of the whole dataset.

        Raises:
            InputError: no video is in a subset of that name.
        """
        inside = {video: value for video, value in self.videos.items() if value.subset == name}
        if not inside:
            there = (
                ", ".join(f"{subset} ({count} videos)" for subset, count in self.subsets.items()) or "none"
            )
            problem = f"there is no subset '{name}'{did_you_mean(name, self.subsets)}; subsets: {there}"
            raise InputError(self.source, problem, "subset")
        outside = self.videos.keys() - inside.keys()
        return replace(self, videos=inside, elsewhere=self.elsewhere | outside)

    def instances(self) -> int:
        """Number of instances."""
        return sum(len(video.instances) for video in self.videos.values())
