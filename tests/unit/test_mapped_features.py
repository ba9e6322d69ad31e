"""Features mapped from their shards: the same values as read, and whatever cannot be mapped is still read."""

import gc
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from avfusion.data import mapped
from avfusion.data.features import FeatureStore, FeatureWriter, TimeAxis, VideoFeatures
from avfusion.detectors.base import channels_first
from avfusion.errors import InputError

AXIS = TimeAxis(first=0.64, stride=0.32, window=1.28)
AXIS_ATTRIBUTES = {"first": AXIS.first, "stride": AXIS.stride, "window": AXIS.window}
OTHER_LAYOUTS = {
    "chunked": {"chunks": (2, 3)},
    "compressed": {"chunks": (2, 3), "compression": "gzip"},
    "float64": {"dtype": "<f8"},
    "float16": {"dtype": "<f2"},
    "whole numbers": {"dtype": "<i4"},
    "big-endian": {"dtype": ">f4"},
}


def values_of(seed: int, snippets: int = 5, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9, 9, (snippets, channels)).astype(np.float32)


def write_shard(path: Path, **videos: np.ndarray) -> Path:
    with FeatureWriter(path) as out:
        out.stream("rgb", backbone="i3d", weights="w")
        for video, values in videos.items():
            out.add("rgb", video, VideoFeatures(values, AXIS))
    return path


def write_plain(path: Path, video: str, **options: Any) -> Path:
    """A shard of one video as somebody else may write it."""
    with h5py.File(path, "w", **options.pop("file", {})) as file:
        data = file.create_group("rgb").create_dataset(video, **options)
        data.attrs.update(AXIS_ATTRIBUTES)
    return path


def is_mapped(values: np.ndarray) -> bool:
    return not values.flags.writeable


def test_mapped_values_are_those_that_h5py_reads(tmp_path: Path) -> None:
    videos = {f"v{k}": values_of(k, snippets=k + 1, channels=k % 3 + 1) for k in range(30)}
    shards = [
        write_shard(tmp_path / f"{part}.h5", **dict(list(videos.items())[part::3])) for part in range(3)
    ]
    store = FeatureStore(shards, "rgb")
    for video, values in videos.items():
        found = store[video]
        assert found.axis == AXIS
        assert is_mapped(found.values)
        assert found.values.dtype == np.float32
        np.testing.assert_array_equal(found.values, values)
        with h5py.File(shards[int(video[1:]) % 3]) as file:
            np.testing.assert_array_equal(found.values, file["rgb"][video][()])


def test_nobody_writes_into_a_shard(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "0.h5", a=values_of(0), one=values_of(1, channels=1))
    before, store = path.read_bytes(), FeatureStore([path], "rgb")
    with pytest.raises(ValueError, match="read-only"):
        store["a"].values[0, 0] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of memory that must not be written to
        for video in store:
            tensor = channels_first(store[video])
            tensor += 1
            np.testing.assert_array_equal(tensor.numpy().T, store[video].values + 1)
    assert path.read_bytes() == before


@pytest.mark.parametrize("layout", OTHER_LAYOUTS)
def test_other_layouts_are_read(tmp_path: Path, layout: str) -> None:
    values = values_of(0)
    options = {"data": values, **OTHER_LAYOUTS[layout]}
    if "dtype" in options:
        options["data"] = values.astype(options["dtype"])
    found = FeatureStore([write_plain(tmp_path / "0.h5", "v", **options)], "rgb")["v"].values
    assert not is_mapped(found)
    assert found.dtype == np.dtype(np.float32)
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, values)


def test_datasets_that_lie_nowhere_in_the_file(tmp_path: Path) -> None:
    empty = write_plain(tmp_path / "0.h5", "empty", data=np.zeros((0, 3), np.float32))
    unwritten = write_plain(tmp_path / "1.h5", "unwritten", shape=(4, 3), dtype="<f4", fillvalue=7)
    values_of(0).tofile(tmp_path / "raw")
    external = write_plain(
        tmp_path / "2.h5", "external", shape=(5, 3), dtype="<f4", external=[(str(tmp_path / "raw"), 0, 60)]
    )
    store = FeatureStore([empty, unwritten, external], "rgb")
    assert store["empty"].values.shape == (0, 3)
    np.testing.assert_array_equal(store["unwritten"].values, np.full((4, 3), 7))
    np.testing.assert_array_equal(store["external"].values, values_of(0))


def test_a_link_to_another_file_gives_what_stands_there(tmp_path: Path) -> None:
    write_shard(tmp_path / "behind.h5", v=values_of(1))
    path = write_shard(tmp_path / "0.h5", here=values_of(0))
    with h5py.File(path, "r+") as file:
        file["rgb/v"] = h5py.ExternalLink("behind.h5", "rgb/v")
        file["rgb/broken"] = h5py.ExternalLink("nowhere.h5", "rgb/v")
    store = FeatureStore([path], "rgb")
    np.testing.assert_array_equal(store["v"].values, values_of(1))
    np.testing.assert_array_equal(store["here"].values, values_of(0))
    with pytest.raises(InputError, match=r"0\.h5"):
        store["broken"]


def test_a_user_block_before_the_hdf5_part(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "0.h5", "v", data=values_of(0), file={"userblock_size": 512})
    found = FeatureStore([path], "rgb")["v"].values
    assert is_mapped(found)
    np.testing.assert_array_equal(found, values_of(0))


def test_values_that_lie_across_words_are_read(tmp_path: Path) -> None:
    """No kernel expects a float that begins at an odd address."""
    path = tmp_path / "0.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("odd", data=np.zeros(3, np.int8))  # data are laid one after the other
        group = file.create_group("rgb")
        for name in "abc":
            group.create_dataset(name, data=values_of(0)).attrs.update(AXIS_ATTRIBUTES)
            group.create_dataset(name * 2, data=np.zeros((1, 1), np.int8))
        offsets = {name: group[name].id.get_offset() for name in "abc"}
    assert any(offset % 4 for offset in offsets.values())
    store = FeatureStore([path], "rgb")
    for name, offset in offsets.items():
        np.testing.assert_array_equal(store[name].values, values_of(0))
        assert is_mapped(store[name].values) == (offset % 4 == 0)


def test_a_shard_that_is_cut_short(tmp_path: Path) -> None:
    """Also while it is mapped: looking at what is no longer there would end the process."""
    path = write_shard(tmp_path / "0.h5", a=values_of(0, 5000), b=values_of(1, 5000))
    store, late = FeatureStore([path], "rgb"), FeatureStore([path], "rgb")
    assert is_mapped(store["a"].values)
    os.truncate(path, 70_000)
    for each in (store, late):
        with pytest.raises(InputError, match="cannot be read as HDF5 features"):
            each["b"]
    with pytest.raises(InputError, match="cannot be read as HDF5 features"):
        FeatureStore([path], "rgb")


def test_a_shard_that_grows_where_it_lies(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "0.h5", a=values_of(0))
    store = FeatureStore([path], "rgb")
    first = store["a"].values
    with h5py.File(path, "r+") as file:
        del file["rgb/a"]
        data = file["rgb"].create_dataset("a", data=values_of(1, 3000))
        data.attrs.update(AXIS_ATTRIBUTES)
    np.testing.assert_array_equal(store["a"].values, values_of(1, 3000))
    assert first.shape == (5, 3)


def test_a_shard_that_is_replaced_or_removed_stays_what_it_was(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "0.h5", a=values_of(0), b=values_of(1))
    store, untouched = FeatureStore([path], "rgb"), FeatureStore([path], "rgb")
    held = store["a"].values
    write_shard(path, a=values_of(2))
    np.testing.assert_array_equal(held, values_of(0))
    np.testing.assert_array_equal(store["b"].values, values_of(1))
    np.testing.assert_array_equal(untouched["a"].values, values_of(2))
    with pytest.raises(InputError, match=r"is no HDF5 file of features"):
        untouched["b"]  # it was there when the store was made
    path.unlink()
    np.testing.assert_array_equal(store["b"].values, values_of(1))
    with pytest.raises(InputError, match="no such file"):
        FeatureStore([path], "rgb")


def test_a_file_that_takes_its_place_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places of one file are never looked up in another."""
    path = write_shard(tmp_path / "0.h5", a=values_of(0))
    other = write_shard(tmp_path / "other.h5", x=values_of(9, 40), a=values_of(1))
    store, real = FeatureStore([path], "rgb"), Path.open

    def swapped(self: Path, *args: Any) -> Any:
        other.replace(path)
        return real(self, *args)

    monkeypatch.setattr(Path, "open", swapped)
    np.testing.assert_array_equal(store["a"].values, values_of(1))  # read from what is there now


def test_locks(tmp_path: Path) -> None:
    """A writer's lock keeps readers away; a mapping keeps nobody away."""
    path = write_shard(tmp_path / "0.h5", a=values_of(0))
    store, late = FeatureStore([path], "rgb"), FeatureStore([path], "rgb")
    assert is_mapped(store["a"].values)
    writing = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); input()"
    command = [sys.executable, "-c", writing, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(InputError, match="unable to lock file"):
            late["a"]
        np.testing.assert_array_equal(store["a"].values, values_of(0))
        writer.communicate("\n")
    np.testing.assert_array_equal(late["a"].values, values_of(0))


def test_one_mapping_per_file_and_a_bound_on_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    monkeypatch.setattr(mapped, "MAX_FILES", len(mapped._contents) + 3)
    shards = [write_shard(tmp_path / f"{k}.h5", **{f"v{k}": values_of(k)}) for k in range(6)]
    before = open_files()
    store, again = FeatureStore(shards, "rgb"), FeatureStore(shards, "rgb")
    held = [each[f"v{k}"].values for k in range(6) for each in (store, again)]
    assert [is_mapped(values) for values in held] == [True] * 6 + [False] * 6
    for k, values in enumerate(held):
        np.testing.assert_array_equal(values, values_of(k // 2))
    assert open_files() == before + 3
    del store, again
    assert open_files() == before + 3  # arrays keep their file
    del held, values
    gc.collect()
    assert open_files() == before


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_other_drivers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_shard(tmp_path / "0.h5", a=values_of(0))
    real = h5py.File
    monkeypatch.setattr(h5py, "File", lambda name, mode: real(name, mode, driver="core"))
    found = FeatureStore([path], "rgb")["a"].values
    assert not is_mapped(found)
    np.testing.assert_array_equal(found, values_of(0))


def test_stores_and_features_go_to_other_processes(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "0.h5", a=values_of(0), b=values_of(1))
    store = FeatureStore([path], "rgb")
    features = store["a"]
    moved, values = pickle.loads(pickle.dumps((store, features)))
    np.testing.assert_array_equal(values.values, values_of(0))
    np.testing.assert_array_equal(moved["b"].values, values_of(1))
    assert is_mapped(moved["b"].values)
    assert in_a_fork(lambda: bool((store["b"].values == values_of(1)).all()))


def in_a_fork(check: Callable[[], bool]) -> bool:
    child = os.fork()
    if not child:
        os._exit(0 if check() else 1)
    return os.waitpid(child, 0)[1] == 0


def test_a_video_without_a_time_axis_spoils_no_other(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "0.h5", a=values_of(0), b=values_of(1), c=values_of(2))
    with h5py.File(path, "r+") as file:
        del file["rgb/a"].attrs["stride"]
        file["rgb/b"].attrs["stride"] = -1.0
    store = FeatureStore([path], "rgb")
    for video, reason in (("a", "is no HDF5 file of features"), ("b", "not a time axis")):
        with pytest.raises(InputError, match=reason):
            store[video]
    np.testing.assert_array_equal(store["c"].values, values_of(2))
