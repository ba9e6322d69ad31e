"""Features of others: formats, time axes, what is absent, and what is refused."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from avfusion.cli.main import main
from avfusion.data.features import FeatureStore, TimeAxis
from avfusion.data.import_features import Geometry, Timing, available, import_features
from avfusion.data.manifest import ManifestRow, write_manifest
from avfusion.errors import InputError

SECONDS = Geometry(stride=0.5)
VALUES = np.arange(1, 13, dtype=np.float32).reshape(4, 3)


def as_text(values: np.ndarray) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in values.tolist())


def write_csv(path: Path, values: np.ndarray) -> None:
    path.with_suffix(".csv").write_text(as_text(values))


def write_csv_with_header(path: Path, values: np.ndarray) -> None:
    path.with_suffix(".csv").write_text("f0,f1,f2\n" + as_text(values))


def write_csv_of_pandas(path: Path, values: np.ndarray) -> None:
    path.with_suffix(".csv").write_text("0,1,2\n" + as_text(values))


FORMATS: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "npy": lambda path, values: np.save(path.with_suffix(".npy"), values),
    "float16": lambda path, values: np.save(path.with_suffix(".npy"), values.astype(np.float16)),
    "pt": lambda path, values: torch.save(torch.from_numpy(values), path.with_suffix(".pt")),
    "pth": lambda path, values: torch.save(torch.from_numpy(values), path.with_suffix(".pth")),
    "numpy in torch": lambda path, values: torch.save(values, path.with_suffix(".pt")),
    "bfloat16": lambda path, values: torch.save(torch.from_numpy(values).bfloat16(), path),
    "no suffix": lambda path, values: torch.save(torch.from_numpy(values), path),
    "csv": write_csv,
    "csv with header": write_csv_with_header,
    "csv of pandas": write_csv_of_pandas,
}


def run(source: Path, out: Path, videos: list[str], **options: Any) -> FeatureStore:
    options = {"geometry": SECONDS, **options}
    import_features(source, out, "rgb", dict.fromkeys(videos, Timing(2.0, 25.0)), **options)
    return FeatureStore([out], "rgb")


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_per_video(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for k, video in enumerate("ab"):
        FORMATS[form](folder / video, VALUES + k)
    assert available(folder) == ["a", "b"]
    store = run(folder, tmp_path / "out.h5", ["a", "b", "c"])
    assert list(store) == ["a", "b"]
    np.testing.assert_array_equal(store["b"].values, VALUES + 1)
    assert store["a"].values.dtype == np.float32
    assert store["a"].axis == TimeAxis(first=0.25, stride=0.5, window=0.5)
    assert store.absent == {"c": f"no file c.pt, .pth, .npy or .csv in {folder}"}
    assert store.attributes["backbone"] == "imported" and "stride=0.5" in store.attributes["weights"]


@pytest.mark.parametrize("grouped", [False, True])
def test_hdf5(tmp_path: Path, grouped: bool) -> None:
    source = tmp_path / "in.h5"
    with h5py.File(source, "w") as file:
        for k, video in enumerate("ab"):
            name = f"v_{video}/c3d_features" if grouped else f"v_{video}"
            file.create_dataset(name, data=VALUES + k)
    assert available(source, "v_{video}") == ["a", "b"]
    store = run(source, tmp_path / "out.h5", ["b", "c"], pattern="v_{video}")
    np.testing.assert_array_equal(store["b"].values, VALUES + 1)
    assert store.absent == {"c": f"no dataset v_c in {source}"}


def folder_of(tmp_path: Path, values: Any = VALUES) -> Path:
    folder = tmp_path / "in"
    folder.mkdir(exist_ok=True)
    np.save(folder / "a.npy", values)
    return folder


@pytest.mark.parametrize(
    ("geometry", "axis"),
    [
        (Geometry("seconds", 0.5, 2.0), TimeAxis(1.0, 0.5, 2.0)),
        (Geometry("seconds", 0.5, 2.0, 0.1), TimeAxis(0.1, 0.5, 2.0)),
        (Geometry("frames", 8, 64), TimeAxis(32 / 25, 8 / 25, 64 / 25)),
        (Geometry("video"), TimeAxis(0.25, 0.5, 0.5)),
    ],
)
def test_time_axes(tmp_path: Path, geometry: Geometry, axis: TimeAxis) -> None:
    found = run(folder_of(tmp_path), tmp_path / "out.h5", ["a"], geometry=geometry)["a"].axis
    assert (found.first, found.stride, found.window) == pytest.approx((axis.first, axis.stride, axis.window))


def test_layout_is_told(tmp_path: Path) -> None:
    store = run(folder_of(tmp_path, VALUES.T), tmp_path / "out.h5", ["a"], layout="CT", width=3)
    np.testing.assert_array_equal(store["a"].values, VALUES)
    with pytest.raises(InputError, match=r"has 4 channels, not 3: another stream, or not in layout TC"):
        run(tmp_path / "in", tmp_path / "other.h5", ["a"], width=3)
    assert not (tmp_path / "other.h5").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (VALUES[0], r"has shape \(3,\), expected two dimensions"),
        (VALUES[:0], r"has shape \(0, 3\): there is no snippet"),
        (np.where(VALUES == 5, np.nan, VALUES), "holds NaN or infinity"),
        (np.array([["x"]]), "is <U1, not an array of numbers"),
    ],
)
def test_arrays_that_are_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=rf"a\.npy: {message}"):
        run(folder_of(tmp_path, values), tmp_path / "out.h5", ["a"])
    assert not (tmp_path / "out.h5").exists()


def test_widths_of_videos_must_agree(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    np.save(folder / "b.npy", VALUES[:, :2])
    with pytest.raises(InputError, match=r"b\.npy: has 2 channels, not 3"):
        run(folder, tmp_path / "out.h5", ["a", "b"])


class Harmful:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.mkdir, ("made",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"f0,f1\n1,2\n3\n", "line 3: has 1 values, the lines before have 2"),
        ("a.csv", b"1,2\n3,x\n", "line 2: 'x' is no number"),
        ("a.csv", b"f0,f1\n", r"has shape \(0, 0\): there is no snippet"),
        ("a.npy", b"no numpy", "is no .npy file"),
        ("a.npy", b"\x93NUMPY\x01\x00", "cannot be read as .npy"),
        ("a.pt", b"no torch", "is no file of torch|cannot be read as a file of torch"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: {message}") as caught:
        run(tmp_path, tmp_path / "out.h5", ["a"])
    assert "\n" not in str(caught.value)


def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save([Harmful()], tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds objects other than tensors"):
        run(tmp_path, tmp_path / "out.h5", ["a"])
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object))
    with pytest.raises(InputError, match=r"cannot be read as \.npy"):
        run(tmp_path, tmp_path / "out.h5", ["b"])
    assert not (tmp_path / "made").exists()


def test_two_files_of_one_video_and_none_at_all(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    with pytest.raises(InputError, match=r"in: has features of none of the 1 videos \(no file x\.pt"):
        run(folder, tmp_path / "out.h5", ["x"])
    write_csv(folder / "a", VALUES)
    with pytest.raises(InputError, match=r"a\.npy: there is a\.csv as well: keep one"):
        run(folder, tmp_path / "out.h5", ["a"])
    with pytest.raises(InputError, match="there is no such file"):
        run(tmp_path / "nowhere", tmp_path / "out.h5", ["a"])
    with pytest.raises(InputError, match=r"pattern: must hold \{video\} once, not 'v_'"):
        run(folder, tmp_path / "out.h5", ["a"], pattern="v_")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "geometry: stride: must be given in seconds"),
        ({"stride": 0.0}, "geometry: stride: must be above 0, not 0.0"),
        ({"stride": 1.0, "window": -1.0}, "geometry: window: must be above 0"),
        ({"unit": "video", "stride": 1.0}, "stride: has no meaning if snippets divide the whole video"),
    ],
)
def test_impossible_geometries(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Geometry(**arguments)


def test_what_is_not_known_of_a_video(tmp_path: Path) -> None:
    for geometry, what in ((Geometry("frames", 8), "frames per second"), (Geometry("video"), "duration")):
        with pytest.raises(InputError, match=f"videos: a: its {what} is needed to place its snippets"):
            import_features(folder_of(tmp_path), tmp_path / "out.h5", "rgb", {"a": Timing()}, geometry)


def test_snippets_that_do_not_fit_the_video_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "avfusion"):
        run(folder_of(tmp_path), tmp_path / "out.h5", ["a"])
        assert not caplog.text
        run(folder_of(tmp_path), tmp_path / "out.h5", ["a"], geometry=Geometry(stride=5.0))
    assert "of 1 videos do not fit" in caplog.text and "'a' end at 20.0 s, it lasts 2.0 s" in caplog.text


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = folder_of(tmp_path), tmp_path / "out.h5"
    common = ["import-features", str(folder), "--stream", "audio", "--out", str(out)]
    assert main([*common, "--unit", "frames", "--stride", "10", "--fps", "20"]) == 0
    assert f"{out}: audio of 1 videos, 0 have none" in capsys.readouterr().out
    assert FeatureStore([out], "audio")["a"].axis.stride == 0.5

    table = tmp_path / "manifest.tsv"
    write_manifest(table, [ManifestRow("a", "test", "a.mp4", 2.0, 25.0), ManifestRow("b", "test", "b.mp4")])
    assert main([*common, "--unit", "frames", "--stride", "10", "--videos", str(table)]) == 0
    assert "b: no file b.pt" in capsys.readouterr().out
    assert FeatureStore([out], "audio")["a"].axis.stride == 0.4

    annotations = tmp_path / "annotations.json"
    videos = {"a": {"subset": "test", "duration": 8.0, "annotations": []}}
    annotations.write_text(json.dumps({"database": videos}))
    assert main([*common, "--unit", "video", "--videos", str(annotations)]) == 0
    assert FeatureStore([out], "audio")["a"].axis.stride == 2.0

    assert main([*common, "--unit", "frames", "--stride", "10"]) == 1
    assert "frames per second is needed" in capsys.readouterr().err
    assert main([*common, "--stride", "1", "--pattern", "v_{video}"]) == 1
    assert "holds no features of a video: check --pattern" in capsys.readouterr().err
