"""From media files to features: the snippets of every stream through its backbone, in one pass per video.

What a backbone sees: RGB scaled to [-1, 1]; flow cut to +-20 pixels, in eight bits as published, scaled to
[-1, 1]; sound at 16 kHz as log-mel examples, and the mean over the examples of a snippet that holds several.

A stream that a video lacks has a reason in place of features, and never stops the others. A shard that was
interrupted goes on behind its last finished video (`avfusion.data.journal`).
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import avfusion
from avfusion import __version__
from avfusion.backbones.network import Meter, resolve, visual_input
from avfusion.backbones.pipeline import Backbone, Running, StreamConfig, extract
from avfusion.data.features import FeatureWriter
from avfusion.data.hdf5 import check_video_id
from avfusion.data.journal import Journal, Result, telling_a_full_disk
from avfusion.data.manifest import ManifestRow
from avfusion.data.streams import VISUAL
from avfusion.files import sha256
from avfusion.fingerprint import fingerprint
from avfusion.media.snippets import AudioGeometry
from avfusion.progress import track

__all__ = ["Backbone", "Meter", "Running", "StreamConfig", "extract_shard", "extract_video", "visual_input"]

logger = logging.getLogger("avfusion")


def extract_video(
    path: str | Path,
    streams: Sequence[StreamConfig],
    backbones: Mapping[str, Backbone],
    running: Running | None = None,
) -> dict[str, Result]:
    """Extract streams of one video; the visual ones share one pass over it.

    Args:
        path: media file.
        streams: what to extract.
        backbones: network of every stream.
        running: device and the like; by default on the CPU.

    Returns:
        For every stream its features, or in plain words why there are none.
    """
    results: dict[str, Result] = {}
    running = running or Running()
    for _ in extract([Path(path)], streams, backbones, running, lambda _, found: results.update(found)):
        pass
    return results


def extract_shard(
    rows: Sequence[ManifestRow],
    streams: Sequence[StreamConfig],
    backbones: Mapping[str, Backbone],
    outputs: str | Path | Mapping[str, str | Path],
    running: Running | None = None,
    meter: Meter | None = None,
) -> dict[str, dict[str, str]]:
    """Extract streams of many videos into feature files, which appear when all are done.

    Interrupted, it goes on behind the last video that was finished when it is called again with the same
    streams, weights and code.

    Args:
        rows: of the manifest; a row that is not ok is absent for its reason.
        streams: what to extract.
        backbones: network of every stream.
        outputs: HDF5 file for all streams, or one per stream by its name.
        running: device and the like; by default on the CPU.
        meter: to read afterwards where the time went.

    Returns:
        By video, the streams that are absent and why; videos with all streams are not in it.

    Raises:
        InputError: a video id that cannot be stored, or a network that gives NaN or infinity.
        AvfusionError: the disk is full (what is finished is kept), or another process makes the same shard.
    """
    running, meter = running or Running(), meter or Meter()
    names = [config.name for config in streams]
    paths = {n: Path(outputs[n] if isinstance(outputs, Mapping) else outputs) for n in names}
    attributes = {config.name: _attributes(config, backbones[config.name], running) for config in streams}
    for row in rows:
        check_video_id(paths[names[0]], row.id)
    with Journal(paths[names[0]], {"streams": attributes, "code": _code()}) as journal:
        todo = [row for row in rows if row.ok and not journal.finished(row.id, _source(row))]

        def finish(index: int, results: dict[str, Result]) -> None:
            journal.add(todo[index].id, _source(todo[index]), results)
            meter.media += todo[index].duration

        steps = extract([Path(row.path) for row in todo], streams, backbones, running, finish, meter)
        total = sum(_expected(row, config) for row in todo for config in streams)
        for _ in track(steps, f"extracting {', '.join(names)}", total=total, unit="snippet"):
            pass
        meter.stop()
        logger.info("%s", meter)
        for line in meter.details().splitlines():
            logger.info("%s", line)
        with ExitStack() as stack:
            writers = {}
            for path in dict.fromkeys(paths.values()):
                path.parent.mkdir(parents=True, exist_ok=True)
                journal.reserve(path)
                stack.enter_context(telling_a_full_disk(path))
                writers[path] = stack.enter_context(FeatureWriter(path))
            for name in names:
                writers[paths[name]].stream(name, **attributes[name])
            absent = _write(rows, journal, {name: writers[paths[name]] for name in names})
        journal.discard()
    return absent


def _write(
    rows: Sequence[ManifestRow], journal: Journal, writers: Mapping[str, FeatureWriter]
) -> dict[str, dict[str, str]]:
    """The finished videos into the shard; what is absent, and why."""
    absent: dict[str, dict[str, str]] = {}
    for row in rows:
        results = journal.results(row.id) if row.ok else dict.fromkeys(writers, row.status)
        for name, result in results.items():
            if isinstance(result, str):
                writers[name].absent(name, row.id, result)
                absent.setdefault(row.id, {})[name] = result
                logger.warning("%s: %s is absent: %s", row.id, name, result)
            else:
                writers[name].add(name, row.id, result)
    return absent


def _attributes(config: StreamConfig, backbone: Backbone, running: Running) -> dict[str, Any]:
    """What the group of a stream says of how it was made."""
    attributes: dict[str, Any] = {
        "backbone": str(config.backbone),
        "weights": backbone.weights,
        "geometry": json.dumps(asdict(config.geometry)),
        "avfusion": __version__,
        "precision": resolve(running.precision, running.device) if config.name in VISUAL else "float32",
    }
    if config.post is not None:
        attributes["postprocessing"] = str(config.post)
    return attributes if config.flow is None else attributes | {"flow": config.flow}


def _code() -> str:
    """Hash of all code that features depend on: half a shard of older code is not continued."""
    package = Path(avfusion.__file__).parent
    compiled = [sha256(path) for path in sorted((package / "ops").glob("*.so"))]
    return "-".join([fingerprint(__file__, package), *compiled])


def _source(row: ManifestRow) -> str:
    """What tells a media file from the one that it replaces."""
    if row.sha256:
        return row.sha256
    try:
        status = Path(row.path).stat()
    except OSError:
        return "no such file"
    return f"{status.st_size} bytes of {status.st_mtime_ns}"


def _expected(row: ManifestRow, config: StreamConfig) -> int:
    """Snippets that a row will have, for the progress bar."""
    geometry = config.geometry
    if isinstance(geometry, AudioGeometry):
        if not row.has_audio:
            return 0
        if geometry.follow is None:
            return max(1, int(row.duration / (geometry.stride or geometry.window)))
        geometry = geometry.follow
    if not row.fps:
        return 1
    return geometry.count(max(1, round(row.frames * (geometry.fps or row.fps) / row.fps)))
