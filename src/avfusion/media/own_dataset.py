"""A dataset of one's own: what a folder of videos and a file of annotations hold, and what is wrong.

Errors are what the figures would be wrong with (a video in two subsets, two spellings of a class); notes are
what only makes the dataset smaller (a video without a file, a file without annotations).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np

from avfusion.data.annotations import PAST_END_TOLERANCE, Annotations, examine_annotations
from avfusion.data.checks import listed, without_annotations, without_files
from avfusion.data.splitting import TEST, TRAIN, split
from avfusion.errors import InputError, MediaError
from avfusion.media.container import open_media
from avfusion.media.listing import SUFFIXES, file_of
from avfusion.progress import track

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "validation", "val", "valid")


@dataclass
class Survey:
    """What was found.

    Attributes:
        annotations: those of videos that have a file, with their lengths.
        files: file by video id.
        train, test: names of the two subsets.
        problems: what must be mended.
        notes: what one should know.
        seconds: length by video id, of files that can be opened.
        silent: ids of videos without sound.
        was_split: whether the subsets are ours.
    """

    annotations: Annotations
    files: dict[str, Path]
    train: str = TRAIN
    test: str = TEST
    problems: list[InputError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)
    was_split: bool = False


def survey(videos: str | Path, annotations: str | Path, share: float = 0.25, seed: int = 0) -> Survey:
    """Look at a folder of videos and a file of annotations.

    Args:
        videos: folder, with sub-folders; a video is named by its id.
        annotations: ActivityNet JSON, or CSV (video, label, start, end, and perhaps subset).
        share: of the videos that go to the test subset, if the annotations name no subsets.
        seed: of that split.

    Raises:
        InputError: the folder or the file cannot be read at all.
    """
    files, problems = _files(Path(videos))
    found, wrong = examine_annotations([Path(annotations)], subset_needed=False)
    result = Survey(found, files, problems=[*problems, *wrong])
    _match(result, str(annotations))
    _open_files(result)
    _check_ends(result)
    _choose_subsets(result, share, seed, str(annotations))
    return result


def describe(result: Survey) -> Iterator[str]:
    """The survey in lines for a person."""
    annotations = result.annotations
    lengths = np.array([i.end - i.start for v in annotations.videos.values() for i in v.instances])
    hours = sum(result.seconds.values()) / 3600
    yield (
        f"{len(annotations.videos)} videos ({hours:.2f} h, {len(result.silent)} without sound),"
        f" {annotations.instances()} instances of {len(annotations.labels)} classes"
    )
    if lengths.size:
        low, middle, high = np.quantile(lengths, [0.05, 0.5, 0.95])
        yield f"instances last {middle:.1f} s (median), {low:.1f} to {high:.1f} s (nine in ten)"
    if not result.problems:
        origin = "dealt by seed" if result.was_split else "as the annotations say"
        yield f"subsets {origin}: " + ", ".join(
            f"{name} {annotations.subsets.get(name, 0)} videos" for name in (result.train, result.test)
        )
        yield from _class_table(result)
    yield from (f"note: {note}" for note in result.notes)


def window_lengths(annotations: Annotations) -> list[float]:
    """Lengths in seconds for sliding windows that fit the instances: each 1.5 times the one before."""
    lengths = np.array([i.end - i.start for v in annotations.videos.values() for i in v.instances])
    low, high = np.quantile(lengths, [0.05, 0.95])
    low = max(float(low), 0.5)
    count = int(np.ceil(np.log(max(float(high) / low, 1.0)) / np.log(1.5))) + 1
    return [round(low * 1.5**k, 1) for k in range(count)]


def _files(folder: Path) -> tuple[dict[str, Path], list[InputError]]:
    """Files by id, and a problem for every id that two files claim."""
    if not folder.is_dir():
        raise InputError(folder, "there is no such folder")
    found: dict[str, Path] = {}
    problems = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            first, second = found[path.stem].relative_to(folder), path.relative_to(folder)
            problems.append(InputError(folder, f"{first} and {second} both claim to be it", path.stem))
        found.setdefault(path.stem, path)
    if not found:
        raise InputError(folder, f"holds no video ({', '.join(SUFFIXES)})")
    return found, problems


def _match(result: Survey, source: str) -> None:
    """Leave out annotated videos without a file; note them, and files that nothing is known of."""
    missing = without_files(result.annotations, result.files)
    unknown = without_annotations(result.annotations, result.files)
    if missing and len(missing) == len(result.annotations.videos):
        example = f"'{missing[0]}' is annotated, the folder has '{next(iter(result.files))}'"
        problem = f"no annotated video has a file ({example}): files must be named by the id of the video"
        result.problems.append(InputError(source, problem))
        return
    if missing:
        told = listed(f"{name} ({result.annotations.places.get(name, '?')})" for name in missing)
        result.notes.append(f"{len(missing)} annotated videos have no file and are left out: {told}")
    if unknown:
        result.notes.append(f"{len(unknown)} files have no annotations and are not used: {listed(unknown)}")
    kept = {name: v for name, v in result.annotations.videos.items() if name not in set(missing)}
    result.annotations = replace(result.annotations, videos=kept)


def _open_files(result: Survey) -> None:
    """Lengths of the files; one that cannot be opened is noted, and the manifest will have its reason."""
    broken = []
    for name in track(list(result.annotations.videos), "opening videos", unit="video"):
        path = file_of(name, result.files)
        try:
            with open_media(str(path)) as container:
                if not container.streams.video:
                    broken.append(name)
                    continue
                if not container.streams.audio:
                    result.silent.append(name)
                if container.duration:
                    result.seconds[name] = container.duration / av.time_base
        except MediaError:
            broken.append(name)
    if broken:
        result.notes.append(f"{len(broken)} files cannot be opened and will be left out: {listed(broken)}")
    videos: Mapping[str, float] = result.seconds
    result.annotations = replace(
        result.annotations,
        videos={
            name: replace(v, duration=round(videos[name], 3) if name in videos else v.duration)
            for name, v in result.annotations.videos.items()
        },
    )


def _check_ends(result: Survey) -> None:
    late = [
        f"{name} ({i.label} ends at {i.end:g} s of {video.duration:g} s)"
        for name, video in result.annotations.videos.items()
        for i in video.instances
        if video.duration is not None and i.end > video.duration + PAST_END_TOLERANCE
    ]
    if late:
        result.notes.append(f"{len(late)} instances reach past the end of their video: {listed(late)}")


def _choose_subsets(result: Survey, share: float, seed: int, source: str) -> None:
    names = result.annotations.subsets
    if not names or result.problems:
        return
    if set(names) == {""}:
        if len(result.annotations.videos) < 2:
            result.problems.append(InputError(source, "one video cannot be split into two subsets"))
            return
        result.annotations = split(result.annotations, share, seed)
        result.was_split = True
        return
    if "" in names:
        without = [name for name, v in result.annotations.videos.items() if not v.subset]
        problem = f"{len(without)} videos name no subset, the others do: {listed(without)}"
        result.problems.append(InputError(source, problem, "subset"))
        return
    filled = Counter(v.subset for v in result.annotations.videos.values() if v.instances)
    train = [name for name in names if name.lower() in TRAIN_NAMES]
    test = sorted((n for n in names if n.lower() in TEST_NAMES), key=lambda n: (not filled[n], _rank(n)))
    if not train or not test:
        told = ", ".join(f"'{name}' ({count} videos)" for name, count in names.items())
        problem = f"needs a subset 'train' and a subset 'test' (or 'validation'); there are {told}"
        result.problems.append(InputError(source, problem, "subset"))
        return
    result.train, result.test = train[0], test[0]


def _rank(name: str) -> int:
    return TEST_NAMES.index(name.lower())


def _class_table(result: Survey) -> Iterator[str]:
    counts = {
        subset: Counter(
            i.label for v in result.annotations.videos.values() if v.subset == subset for i in v.instances
        )
        for subset in (result.train, result.test)
    }
    width = max([len("class"), *map(len, result.annotations.labels)])
    yield f"  {'class':<{width}}  {result.train:>10}  {result.test:>10}   instances"
    for label in result.annotations.labels:
        yield f"  {label:<{width}}  {counts[result.train][label]:>10}  {counts[result.test][label]:>10}"
    for subset in (result.train, result.test):
        if absent := [label for label in result.annotations.labels if not counts[subset][label]]:
            yield f"note: without an instance in {subset}: {listed(absent)}"
