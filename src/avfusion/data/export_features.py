"""Features of ours in the layouts that other codes read.

======== ============================================================================================
layout   files
======== ============================================================================================
npy      ``STREAM/VIDEO.npy`` (T, C), and ``STREAM/times.json``: first centre, stride and window of each
muses    ``STREAM/VIDEO.npy`` (T, C), as MUSES reads with ``ft_file_ext: .npy``
pgcn     ``STREAM/VIDEO``, without suffix: a tensor (T, C) saved by torch, as P-GCN and MUSES read
gtad     ``STREAM_val.h5``, ``STREAM_test.h5`` (by the word in the video's id; else ``STREAM.h5``) with a
         dataset (T * repeat, C) per video, every row `repeat` times: G-TAD takes every fifth row
======== ============================================================================================
"""

import io
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np

from avfusion.data.features import VideoFeatures
from avfusion.errors import InputError
from avfusion.files import atomic_path, write_text

Layout = Literal["npy", "muses", "pgcn", "gtad"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
GTAD_SKIP = 5  # rows that G-TAD goes ahead


def export_features(
    features: Mapping[str, VideoFeatures],
    stream: str,
    layout: Layout,
    folder: str | Path,
    repeat: int = GTAD_SKIP,
) -> int:
    """Write one stream of features in another layout.

    Args:
        features: by video, such as a `FeatureStore`.
        stream: name of the stream, which names folder or file.
        layout: see above.
        folder: where to write; files of the same names are replaced.
        repeat: of layout gtad: how often a row stands there.

    Returns:
        Number of videos.

    Raises:
        InputError: unknown layout, or `repeat` below 1.
    """
    if layout not in LAYOUTS:
        raise InputError("layout", f"'{layout}' is none of {', '.join(LAYOUTS)}")
    if repeat < 1:
        raise InputError("repeat", f"must be at least 1, not {repeat}")
    if layout == "gtad":
        _write_gtad(features, stream, Path(folder), repeat)
        return len(features)
    target = Path(folder) / stream
    content: Callable[[VideoFeatures], bytes] = _torch_file if layout == "pgcn" else _npy_file
    for video in features:
        with atomic_path(target / (video if layout == "pgcn" else f"{video}.npy")) as temporary:
            temporary.write_bytes(content(features[video]))
    if layout == "npy":
        times = {video: asdict(features[video].axis) for video in features}
        write_text(target / "times.json", json.dumps(times, indent=1, sort_keys=True) + "\n")
    return len(features)


def _write_gtad(features: Mapping[str, VideoFeatures], stream: str, folder: Path, repeat: int) -> None:
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for video in features:
            subset = next((f"_{word}" for word in ("val", "test") if word in video), "")
            if subset not in files:
                path = stack.enter_context(atomic_path(folder / f"{stream}{subset}.h5"))
                files[subset] = stack.enter_context(h5py.File(path, "w"))
            files[subset].create_dataset(video, data=np.repeat(features[video].values, repeat, axis=0))


def _npy_file(features: VideoFeatures) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(features.values, dtype=np.float32), allow_pickle=False)
    return buffer.getvalue()


def _torch_file(features: VideoFeatures) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(torch.from_numpy(features.values.astype(np.float32)), buffer)
    return buffer.getvalue()
