"""Crops, precision, readers, sound windows and post-processing, through extraction."""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from media_files import tone, write_video

from avfusion.backbones import pipeline
from avfusion.backbones.extract import Backbone, Meter, Running, StreamConfig, extract_shard, extract_video
from avfusion.backbones.network import Network, crops, resolve, visual_input
from avfusion.backbones.packing import Packer, Part
from avfusion.backbones.vggish import PcaParameters, PostProcessing
from avfusion.backbones.weights import BackboneConfig, load_backbone
from avfusion.data.features import FeatureStore, VideoFeatures
from avfusion.data.journal import Result
from avfusion.data.manifest import ManifestRow
from avfusion.errors import InputError
from avfusion.media.audio import read_audio, resample
from avfusion.media.clips import VisualSource, visual_clips, visual_grid
from avfusion.media.log_mel import published_examples
from avfusion.media.probe import probe
from avfusion.media.snippets import PRESETS, AudioGeometry, SnippetGeometry, WindowBuffer

FRAMES = SnippetGeometry(window=16, stride=4, size=32, short_side=40)
SMALL = BackboneConfig("i3d", width=0.1, endpoint="Mixed_4b")
HEARS = BackboneConfig("vggish", width=0.05, final_relu=False)


@pytest.fixture(scope="module")
def backbones() -> dict[str, Backbone]:
    configs = {"rgb": SMALL, "flow": SMALL, "audio": HEARS}
    return {name: Backbone(*load_backbone(name, "random:0", config)) for name, config in configs.items()}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("media")
    return [
        write_video(folder / f"{i}.mp4", np.arange(30 + 7 * i) / 20, rate=20, sound=tone(2.0, 300 + 90 * i))
        for i in range(4)
    ]


def values(path: Path, config: StreamConfig, backbone: Backbone, **running: object) -> np.ndarray:
    result = extract_video(path, [config], {config.name: backbone}, Running(**running))  # type: ignore[arg-type]
    found = result[config.name]
    assert isinstance(found, VideoFeatures), found
    return found.values


def test_runs_hold_the_windows_once() -> None:
    def frames(geometry: SnippetGeometry, count: int, windows: int) -> list[list[int]]:
        buffer = WindowBuffer(geometry, windows)
        runs = [run for i in range(count) for run in buffer.push(np.full((1,), i, np.uint8))]
        return [run.stacked()[:, 0].tolist() for run in [*runs, *buffer.finish()]]

    four = SnippetGeometry(window=4, stride=2)
    assert frames(four, 11, 2) == [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9]]
    assert frames(four, 13, 2) == [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9], [8, 9, 10, 11]]
    assert frames(four, 3, 2) == [[0, 1, 2, 2]]
    apart = SnippetGeometry(window=2, stride=3)
    assert frames(apart, 9, 2) == [[0, 1, 2, 3, 4], [6, 7]]
    assert frames(apart, 10, 1) == [[0, 1], [3, 4], [6, 7]]
    assert frames(four, 0, 2) == []


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_the_fast_way_gives_what_the_plain_way_does(
    videos: list[Path], backbones: dict[str, Backbone], stream: str, batch_size: int
) -> None:
    flow = "dis" if stream == "flow" else None
    config = StreamConfig(stream, SMALL, FRAMES, flow, batch_size)
    found = values(videos[3], config, backbones[stream])
    clips = [c for _, c in visual_clips(videos[3], probe(videos[3]), {"x": VisualSource(FRAMES, flow)})]
    module = backbones[stream].module
    with torch.inference_mode():
        expected = torch.cat([module.extract_features(visual_input(clip[None])) for clip in clips]).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_short_videos_share_batches(
    tmp_path: Path, videos: list[Path], backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = Network.__call__

    def counting(self: Network, parts: list[Part[torch.Tensor]]) -> list[torch.Tensor]:
        calls.append(len(parts))
        return real(self, parts)

    monkeypatch.setattr(Network, "__call__", counting)
    rows = [ManifestRow(path.stem, "", str(path), 1.5, 20.0, 30, True, 44100) for path in videos]
    config = StreamConfig("rgb", SMALL, FRAMES, batch_size=12)
    meter = Meter()
    extract_shard(rows, [config], backbones, tmp_path / "0.h5", Running(), meter)
    store = FeatureStore([tmp_path / "0.h5"], "rgb")
    assert max(calls) > 1 and len(calls) < 4
    assert meter.snippets == sum(len(store[video].values) for video in store)
    assert meter.media == 6.0 and 0 < meter.network <= meter.seconds
    assert "snippets of 6.0 s of media" in str(meter)
    for path in videos:
        alone = values(path, config, backbones["rgb"])
        assert np.allclose(store[path.stem].values, alone, rtol=1e-4, atol=1e-6)


def test_many_readers_change_nothing(
    tmp_path: Path, videos: list[Path], backbones: dict[str, Backbone]
) -> None:
    rows = [ManifestRow(path.stem, "", str(path)) for path in videos]
    streams = [StreamConfig("rgb", SMALL, FRAMES), StreamConfig("flow", SMALL, FRAMES, "dis")]
    streams.append(StreamConfig("audio", HEARS, AudioGeometry(follow=FRAMES)))
    for workers in (1, 3):
        extract_shard(rows, streams, backbones, tmp_path / f"{workers}.h5", Running(workers=workers))
    for config in streams:
        one, many = (FeatureStore([tmp_path / f"{n}.h5"], config.name) for n in (1, 3))
        assert list(one) == list(many)
        for video in one:
            assert np.allclose(one[video].values, many[video].values, rtol=1e-4, atol=1e-6)


def test_reduced_precision_stays_within_a_hundredth(
    videos: list[Path], backbones: dict[str, Backbone]
) -> None:
    config = StreamConfig("rgb", SMALL, FRAMES)
    exact = values(videos[0], config, backbones["rgb"])
    rough = values(videos[0], config, backbones["rgb"], precision="bfloat16")
    difference = np.linalg.norm(exact - rough) / np.linalg.norm(exact)
    assert 1e-5 < difference < 1e-2
    assert resolve("auto", "cpu") == "float32" and resolve("auto", "cuda:0") == "bfloat16"
    assert resolve("tf32", "cuda") == "tf32"
    with pytest.raises(InputError, match="'half' is none of auto, float32, tf32, bfloat16"):
        Running(precision="half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="counts"):
        Running(threads=0)


def test_ten_crops() -> None:
    frames = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (2, 5, 8, 3)).astype(np.uint8))
    geometry = SnippetGeometry(2, 1, size=4, crops="ten")
    found = [cut[0] for cut in crops([frames], geometry)]
    assert len(found) == 10
    for cut, top, left in zip(found[::2], (0, 0, 0, 1, 1), (2, 0, 4, 0, 4), strict=True):
        assert torch.equal(cut, frames[:, top : top + 4, left : left + 4])
    for cut, mirrored in zip(found[::2], found[1::2], strict=True):
        assert torch.equal(mirrored, cut.flip(2))
    flow = [cut[0] for cut in crops([frames[..., :2]], geometry)]
    assert torch.equal(flow[1][..., 0], 255 - flow[0].flip(2)[..., 0])
    assert torch.equal(flow[1][..., 1], flow[0].flip(2)[..., 1])
    assert len(list(crops([frames], dataclasses.replace(geometry, crops="centre")))) == 1


@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_features_of_ten_crops_are_their_mean(
    videos: list[Path], backbones: dict[str, Backbone], stream: str
) -> None:
    flow = "dis" if stream == "flow" else None
    geometry = dataclasses.replace(FRAMES, crops="ten")
    found = values(videos[0], StreamConfig(stream, SMALL, geometry, flow), backbones[stream])
    (whole,) = [
        clip for _, clip in visual_clips(videos[0], probe(videos[0]), {"x": VisualSource(geometry, flow, 16)})
    ]
    assert whole.shape[1:3] == (40, 60)
    module = backbones[stream].module
    with torch.inference_mode():
        each = [
            module.extract_features(visual_input(cut[0].numpy()[None, :16]))
            for cut in crops([torch.from_numpy(whole)], geometry)
        ]
    expected = torch.stack(each).mean(dim=0).numpy()[0]
    assert np.abs(found[0] - expected).max() <= 1e-5 * np.abs(expected).max()


def test_sound_of_tal_hmo(videos: list[Path], backbones: dict[str, Backbone]) -> None:
    config = StreamConfig("audio", HEARS, AudioGeometry(1.2, follow=FRAMES, scheme="tal-hmo"))
    result = extract_video(videos[0], [config], backbones)["audio"]
    assert isinstance(result, VideoFeatures)
    samples = resample(read_audio(videos[0])).samples
    _, count = visual_grid(probe(videos[0]), FRAMES)
    with torch.inference_mode():
        expected = backbones["audio"].module(torch.from_numpy(published_examples(samples, count))).numpy()
    assert result.values.shape == (count, 128)
    assert np.abs(result.values - expected).max() <= 1e-5 * np.abs(expected).max()
    step = len(samples) // count / 16000
    assert (result.axis.first, result.axis.stride, result.axis.window) == pytest.approx((step, step, 1.2))
    for wrong, message in (
        ({"window": 0.96, "follow": FRAMES}, "snippets of 1.2 s"),
        ({"window": 1.2}, "needs the grid of a visual stream"),
    ):
        with pytest.raises(InputError, match=message):
            AudioGeometry(scheme="tal-hmo", **wrong)  # type: ignore[arg-type]


def test_post_processing(videos: list[Path], backbones: dict[str, Backbone], tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    vectors, means = random.standard_normal((128, 128)) / 100, random.standard_normal((128, 1))
    np.savez(tmp_path / "pca.npz", pca_eigen_vectors=vectors, pca_means=means)
    post = PostProcessing.read(tmp_path / "pca.npz", "down")
    plain = StreamConfig("audio", HEARS, AudioGeometry())
    config = dataclasses.replace(plain, post=post)
    out = tmp_path / "0.h5"
    extract_shard([ManifestRow("a", "", str(videos[0]))], [config], backbones, out)
    store = FeatureStore([out], "audio")
    expected = PcaParameters(vectors, means.ravel()).quantise(
        values(videos[0], plain, backbones["audio"]), "down"
    )
    assert np.array_equal(store["a"].values, expected)
    assert store.attributes["postprocessing"].startswith("pca sha256:")
    with pytest.raises(ValueError, match="only the sound"):
        StreamConfig("rgb", SMALL, FRAMES, post=post)


def test_weights_that_give_nan_are_told(videos: list[Path], backbones: dict[str, Backbone]) -> None:
    module, _ = load_backbone("rgb", "random:0", SMALL)
    module.Conv3d_1a_7x7.conv3d.weight.data[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"0\.mp4: rgb: its features hold NaN or infinity"):
        extract_video(videos[0], [StreamConfig("rgb", SMALL, FRAMES)], {"rgb": Backbone(module, "x")})


def test_presets() -> None:
    assert PRESETS == {"64/8": (64, 8), "16/4": (16, 4), "16/8": (16, 8)}
    with pytest.raises(InputError, match="centre or ten"):
        SnippetGeometry(crops="five")  # type: ignore[arg-type]


@pytest.mark.parametrize("crops", ["centre", "ten"])
@pytest.mark.parametrize(("window", "stride"), [(16, 4), (16, 6), (8, 12)])
def test_batches_of_one_shape_change_nothing(
    backbones: dict[str, Backbone], window: int, stride: int, crops: Literal["centre", "ten"]
) -> None:
    geometry = SnippetGeometry(window, stride, size=32, short_side=40, crops=crops)
    network = Network(backbones["rgb"].module, geometry, "cpu", batch_size=6, alike=True)
    plain = Network(backbones["rgb"].module, geometry, "cpu", batch_size=6)
    size = (32, 32) if crops == "centre" else (40, 44)
    random = np.random.RandomState(0)
    counts = [4, 1, 9, 2]
    pieces = [
        torch.from_numpy(random.randint(0, 256, (window + (count - 1) * stride, *size, 3)).astype(np.uint8))
        for count in counts
    ]
    packer: Packer[int] = Packer(6, network.joint)
    found: list[list[torch.Tensor]] = [[] for _ in counts]
    for index, count in enumerate(counts):
        packer.add(index, count)
    while packer:
        parts = packer.take()
        values = network([Part(pieces[part.piece], part.first, part.count) for part in parts])
        for part, value in zip(parts, values, strict=True):
            found[part.piece].append(value)
    for piece, count, values in zip(pieces, counts, found, strict=True):
        (expected,) = plain([Part(piece, 0, count)])
        together = torch.cat(values)
        assert together.shape == expected.shape == (count, expected.shape[1])
        assert (together - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert plain.joint is None and network.joint == -(-window // stride) - 1


@pytest.mark.parametrize("crops", ["centre", "ten"])
def test_flow_beside_the_network_as_on_cuda(
    videos: list[Path],
    backbones: dict[str, Backbone],
    monkeypatch: pytest.MonkeyPatch,
    crops: Literal["centre", "ten"],
) -> None:
    geometry = dataclasses.replace(FRAMES, crops=crops)
    config = StreamConfig("flow", SMALL, geometry, "tvl1", 3)
    expected = values(videos[1], config, backbones["flow"])
    monkeypatch.setattr(pipeline, "_flow_beside", lambda config, running: config.flow == "tvl1")
    monkeypatch.setattr(pipeline, "Network", functools.partial(Network, alike=True))
    meter = Meter()
    results: dict[str, Result] = {}
    running = Running(workers=2)
    for _ in pipeline.extract(
        [videos[1]], [config], backbones, running, lambda _, r: results.update(r), meter
    ):
        pass
    found = results["flow"]
    assert isinstance(found, VideoFeatures)
    assert found.values.shape == expected.shape
    assert np.abs(found.values - expected).max() <= 1e-5 * np.abs(expected).max()
    assert meter.flow > 0 and meter.reading.keys() >= {"pictures", "handing over"}
    assert "2 readers, together: pictures" in meter.details()


@pytest.mark.gpu
def test_cuda_gives_all_streams_of_many_videos(
    tmp_path: Path, videos: list[Path], backbones: dict[str, Backbone]
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rows = [ManifestRow(path.stem, "", str(path)) for path in videos]
    streams = [StreamConfig("rgb", SMALL, FRAMES, batch_size=7)]
    streams.append(StreamConfig("flow", SMALL, FRAMES, "tvl1", batch_size=5))
    streams.append(StreamConfig("audio", HEARS, AudioGeometry(follow=FRAMES)))
    runs = {
        "cpu": Running(),
        "one": Running("cuda", workers=1, precision="float32"),
        "many": Running("cuda", workers=3, precision="float32"),
    }
    for name, running in runs.items():
        extract_shard(rows, streams, backbones, tmp_path / f"{name}.h5", running)
    for config in streams:
        expected = FeatureStore([tmp_path / "cpu.h5"], config.name)
        for name in ("one", "many"):
            found = FeatureStore([tmp_path / f"{name}.h5"], config.name)
            assert sorted(found) == sorted(expected)
            for video in expected:
                difference = np.linalg.norm(found[video].values - expected[video].values)
                assert difference <= 1e-3 * np.linalg.norm(expected[video].values)


@pytest.mark.gpu
def test_cuda_in_every_precision(videos: list[Path], backbones: dict[str, Backbone]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    config = StreamConfig("rgb", SMALL, FRAMES)
    expected = values(videos[3], config, backbones["rgb"])
    for precision, tolerance in (("float32", 1e-4), ("tf32", 5e-3), ("bfloat16", 1e-2)):
        found = values(videos[3], config, backbones["rgb"], device="cuda", precision=precision)
        assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected), precision
    found = values(videos[3], config, backbones["rgb"], device="cuda", precision="float32", compiled=True)
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)
