"""Feature shards: whole or not at all, readable by anybody, refused when they do not belong together."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from avfusion.data.features import FeatureStore, FeatureWriter, TimeAxis, VideoFeatures
from avfusion.errors import InputError

AXIS = TimeAxis(first=0.64, stride=0.32, window=1.28)


def features(snippets: int = 4, seed: int = 0, axis: TimeAxis = AXIS) -> VideoFeatures:
    return VideoFeatures(np.random.default_rng(seed).standard_normal((snippets, 3)).astype(np.float32), axis)


def write_shard(path: Path, *videos: str, weights: str = "w1", absent: dict[str, str] | None = None) -> Path:
    with FeatureWriter(path) as out:
        out.stream("rgb", backbone="i3d", weights=weights)
        for seed, video in enumerate(videos):
            out.add("rgb", video, features(seed=seed))
        for video, reason in (absent or {}).items():
            out.absent("rgb", video, reason)
    return path


def test_time_axis() -> None:
    np.testing.assert_allclose(AXIS.centres(3), [0.64, 0.96, 1.28])
    assert AXIS.end(3) == pytest.approx(1.92)
    assert AXIS.origin == pytest.approx(0.48)
    for wrong in ({"stride": 0}, {"window": 0}, {"first": float("nan")}, {"stride": float("nan")}):
        with pytest.raises(ValueError, match="time axis"):
            TimeAxis(**({"first": 0.0, "stride": 1.0, "window": 1.0} | wrong))


def test_shards_read_as_one_mapping(tmp_path: Path) -> None:
    shards = [
        write_shard(tmp_path / "0.h5", "b", "a", absent={"broken": "no video track"}),
        write_shard(tmp_path / "1.h5", "c", absent={"late": "shorter than a snippet"}),
    ]
    store = FeatureStore(shards, "rgb")
    assert sorted(store) == ["a", "b", "c"]
    assert len(store) == 3
    assert store.absent == {"broken": "no video track", "late": "shorter than a snippet"}
    assert store.attributes == {"stream": "rgb", "backbone": "i3d", "weights": "w1"}
    np.testing.assert_array_equal(store["a"].values, features(seed=1).values)
    assert store["a"].axis == AXIS
    assert "broken" not in store
    with pytest.raises(KeyError):
        store["broken"]


def test_any_hdf5_viewer_shows_what_it_is(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "0.h5", "a", absent={"broken": "no video track"})
    with h5py.File(path) as file:
        data = file["rgb/a"]
        assert data.dtype == np.float32
        assert dict(data.attrs) == {
            "first": 0.64, "stride": 0.32, "window": 1.28, "backbone": "i3d", "weights": "w1"
        }  # fmt: skip
        assert json.loads(file["rgb"].attrs["absent"]) == {"broken": "no video track"}


def test_thousands_of_absent_videos_fit(tmp_path: Path) -> None:
    absent = {f"video_{k:06}": "no sound track in the file" for k in range(5000)}
    assert FeatureStore([write_shard(tmp_path / "0.h5", absent=absent)], "rgb").absent == absent


def test_a_shard_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "0.h5", "old")
    with pytest.raises(RuntimeError), FeatureWriter(path) as out:
        out.stream("rgb")
        out.add("rgb", "new", features())
        raise RuntimeError
    assert list(FeatureStore([path], "rgb")) == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_while_closing_leaves_what_was_there(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "0.h5", "old")
    with pytest.raises(TypeError), FeatureWriter(path) as out:
        out.stream("rgb")
        out.absent("rgb", "new", object())  # type: ignore[arg-type]  # only noticed when written
    assert list(FeatureStore([path], "rgb")) == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_writer_refuses(tmp_path: Path) -> None:
    with FeatureWriter(tmp_path / "0.h5") as out:
        out.stream("rgb")
        values = features().values.copy()
        values[1, 1] = np.nan
        with pytest.raises(InputError, match="rgb/v: the features hold NaN"):
            out.add("rgb", "v", VideoFeatures(values, AXIS))
        for video in ("", "a/b", "."):
            with pytest.raises(InputError, match="video id"):
                out.add("rgb", video, features())
    assert len(FeatureStore([tmp_path / "0.h5"], "rgb")) == 0
    with pytest.raises(ValueError, match="snippets, channels"):
        VideoFeatures(np.zeros(3, dtype=np.float32), AXIS)


def test_shards_that_do_not_belong_together(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "0.h5", "a")
    with pytest.raises(InputError, match=r"1\.h5: a: also stands in .*0\.h5"):
        FeatureStore([first, write_shard(tmp_path / "1.h5", "a")], "rgb")
    with pytest.raises(InputError, match=r"2\.h5: rgb: weights: is 'w2', but 'w1' in the first shard"):
        FeatureStore([first, write_shard(tmp_path / "2.h5", "b", weights="w2")], "rgb")
    with pytest.raises(InputError, match=r"0\.h5: holds \['rgb'\], not the stream 'audio'"):
        FeatureStore([first], "audio")


def test_files_that_hold_no_features(tmp_path: Path) -> None:
    path = tmp_path / "0.h5"
    with pytest.raises(InputError, match="no such file"):
        FeatureStore([path], "rgb")
    path.write_bytes(write_shard(tmp_path / "whole.h5", "a", "b").read_bytes()[:500])
    with pytest.raises(InputError, match="cannot be read as HDF5 features"):
        FeatureStore([path], "rgb")
    write_shard(path, "a")
    with h5py.File(path, "r+") as file:
        del file["rgb/a"].attrs["stride"]
    with pytest.raises(InputError, match="is no HDF5 file of features"):
        FeatureStore([path], "rgb")["a"]


def test_a_damaged_shard(tmp_path: Path) -> None:
    """h5py complains of broken tables inside a file with other errors than of a broken beginning."""
    path = write_shard(tmp_path / "0.h5", "a", "b")
    content = path.read_bytes()
    assert content.count(b"HEAP") == 2  # names in / and in /rgb
    path.write_bytes(content.replace(b"HEAP", b"HEAQ"))
    with pytest.raises(InputError, match=r"cannot be read as HDF5 features \(.*bad local heap signature"):
        FeatureStore([path], "rgb")
