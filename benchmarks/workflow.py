"""What planning and listing cost as a dataset grows: dry runs of the workflow, and the manifest.

    python benchmarks/workflow.py

Each dry run is `snakemake -n results/activitynet13/mAP.tsv` with all experiments of the shipped
configuration, in a process of its own, with annotations that are there as a synthetic file of that many
videos. Seconds (by the clock, and of the processor) and peak memory are those of that process. The manifest
has 20,000 rows.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from avfusion.data.annotations import Annotations, Instance, VideoAnnotation, read_annotations
from avfusion.data.manifest import ManifestRow, read_manifest, write_manifest
from avfusion.media.listing import list_videos, read_listing, write_listing

ROOT = Path(__file__).parents[1]
ACTIVITYNET, LARGE, MANIFEST = 19_994, 1_000_000, 20_000
SUBSETS = ("training", "training", "validation", "testing")
MEASURED = """
import resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
assert done.returncode == 0, done.stderr
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"{'dry run':<44}{'jobs':>8}{'seconds':>10}{'CPU s':>8}{'MiB':>8}")
        for videos, shards in ((ACTIVITYNET, 100), (LARGE, 100), (LARGE, 1000)):
            place = folder / f"{videos}-{shards}"
            configure(place, videos, shards)
            seconds, cpu, memory, jobs = dry_run(place)
            name = f"{videos:,} videos in {shards} shards"
            print(f"{name:<44}{jobs:>8}{seconds:>10.1f}{cpu:>8.1f}{memory:>8.0f}", flush=True)
        print(f"\n{f'manifest of {MANIFEST:,} videos':<44}{'':>8}{'seconds':>10}")
        for what, seconds in manifest(folder):
            print(f"{what:<44}{'':>8}{seconds:>10.2f}", flush=True)


def configure(folder: Path, videos: int, shards: int) -> None:
    """A folder in which the workflow can be planned for that many videos."""
    shutil.copytree(ROOT / "config", folder / "config")
    path = folder / "config" / "datasets" / "activitynet13.yaml"
    config = yaml.safe_load(path.read_text())
    config |= {"shards": shards, "annotations": "annotations.json"}
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    database = {
        f"v{k:07d}xyz": {
            "subset": SUBSETS[k % 4],
            "duration": 120.0,
            "annotations": [{"label": f"class {k % 200}", "segment": [1.5, 20.5]}],
        }
        for k in range(videos)
    }
    (folder / "annotations.json").write_text(json.dumps({"database": database}))


def dry_run(folder: Path) -> tuple[float, float, float, int]:
    """Seconds, seconds of the processor, and MiB of planning, and the number of jobs."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--quiet", "all"]
    command += ["--cores", "1", "--dry-run", "results/activitynet13/mAP.tsv"]
    told = subprocess.run(
        [sys.executable, "-c", MEASURED, *command], cwd=folder, check=True, capture_output=True, text=True
    ).stdout
    seconds, cpu, memory = map(float, told.split())
    plan = subprocess.run(
        [word for word in command if word not in ("--quiet", "all")],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    total = next(line for line in plan.splitlines() if line.startswith("total"))
    return seconds, cpu, memory, int(total.split()[1])


def manifest(folder: Path) -> Iterator[tuple[str, float]]:
    """Steps on the way from annotations to a manifest that has been read, and how long each takes."""
    annotations = Annotations(
        {
            f"v_{k:07d}": VideoAnnotation("train", 60.0, (Instance(1.0, 2.0, "a"), Instance(3.0, 4.0, "b")))
            for k in range(MANIFEST)
        },
        ("a", "b"),
    )
    place = folder / "resources" / "media"
    place.mkdir(parents=True)
    files = {name: place / f"{name}.mp4" for name in annotations.videos}
    for path in files.values():
        path.touch()
    start = time.perf_counter()
    write_listing(folder / "listing.tsv", list_videos(annotations, ["train"], files))
    listed = read_listing(folder / "listing.tsv")
    yield "list the files, write and read the listing", time.perf_counter() - start
    rows = [
        ManifestRow(video.id, video.subset, video.path, 60.0, 25.0, 1500, True, 44100, "0" * 64)
        for video in listed
    ]
    start = time.perf_counter()
    write_manifest(folder / "manifest.tsv", rows)
    yield "write the manifest", time.perf_counter() - start
    start = time.perf_counter()
    assert read_manifest(folder / "manifest.tsv") == rows
    yield "read the manifest", time.perf_counter() - start
    start = time.perf_counter()
    read_annotations(folder / f"{ACTIVITYNET}-100" / "annotations.json")
    yield f"read the annotations of {ACTIVITYNET:,} videos", time.perf_counter() - start


if __name__ == "__main__":
    main()
