"""Features in the layouts of other codes: what those codes do with them gives the features back."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from avfusion.cli.main import main
from avfusion.data.export_features import export_features
from avfusion.data.features import FeatureStore, FeatureWriter, TimeAxis, VideoFeatures
from avfusion.data.import_features import load_torch
from avfusion.errors import InputError

AXIS = TimeAxis(0.64, 0.32, 1.28)
VIDEOS = ("video_validation_0000001", "video_test_0000004", "other")


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "rgb.h5"
    with FeatureWriter(path) as out:
        for stream in ("rgb", "audio"):
            out.stream(stream, backbone="i3d", weights="w")
            for index, video in enumerate(VIDEOS):
                values = np.random.RandomState(index).rand(4 + index, 3).astype(np.float32)
                out.add(stream, video, VideoFeatures(values, AXIS))
            out.absent(stream, "broken", "no video track")
    return path


def exported(shard: Path, tmp_path: Path, layout: str, *more: str) -> Path:
    out = tmp_path / layout
    assert main(["export-features", str(shard), "--layout", layout, "--out", str(out), *more]) == 0
    return out


@pytest.mark.parametrize("layout", ["npy", "muses"])
def test_a_file_of_numpy_per_video(shard: Path, tmp_path: Path, layout: str) -> None:
    store, out = FeatureStore([shard], "rgb"), exported(shard, tmp_path, layout)
    for video in VIDEOS:
        values = np.load(out / "rgb" / f"{video}.npy", allow_pickle=False)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, store[video].values)
    assert (out / "audio" / "other.npy").exists()
    assert (out / "rgb/times.json").exists() == (layout == "npy")
    if layout == "npy":
        times = json.loads((out / "rgb/times.json").read_text())
        assert times["other"] == {"first": 0.64, "stride": 0.32, "window": 1.28}


def test_a_file_of_torch_per_video(shard: Path, tmp_path: Path) -> None:
    store, out = FeatureStore([shard], "rgb"), exported(shard, tmp_path, "pgcn", "--stream", "rgb")
    for video in VIDEOS:
        values = torch.load(out / "rgb" / video, weights_only=True)
        np.testing.assert_array_equal(values.numpy(), store[video].values)
        assert load_torch(out / "rgb" / video) is not None
    assert not (out / "audio").exists()


def test_every_fifth_row_is_a_snippet(shard: Path, tmp_path: Path) -> None:
    store, out = FeatureStore([shard], "rgb"), exported(shard, tmp_path, "gtad")
    for name, video in zip(("rgb_val.h5", "rgb_test.h5", "rgb.h5"), VIDEOS, strict=True):
        with h5py.File(out / name) as file:
            assert list(file) == [video]
            np.testing.assert_array_equal(file[video][::5, ...], store[video].values)
    other = exported(shard, tmp_path / "2", "gtad", "--repeat", "2")
    with h5py.File(other / "rgb.h5") as file:
        assert len(file["other"]) == 12


def test_what_is_said(shard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(shard, tmp_path, "npy")
    said = capsys.readouterr().out
    assert f"rgb: 3 videos to {tmp_path}/npy" in said
    assert "broken is absent: no video track" in said
    with pytest.raises(InputError, match="'mat' is none of npy, muses"):
        export_features({}, "rgb", "mat", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 1"):
        export_features({}, "rgb", "gtad", tmp_path, repeat=0)
    assert main(["export-features", str(shard), "--layout", "npy", "--out", "x", "--stream", "flow"]) == 1
    assert "not the stream 'flow'" in capsys.readouterr().err
