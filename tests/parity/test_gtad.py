"""G-TAD against the published network, losses, optimiser, targets and post-processing (golden/gtad)."""

import csv
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_recipe import layout, load_recipe, recipe_input
from numpy.typing import NDArray
from torch import Tensor

from avfusion.data.proposals import RankedProposals
from avfusion.detectors.gtad import Example, Gtad, Maps, Options
from avfusion.detectors.gtad_graph import nearest
from avfusion.detectors.gtad_ranking import (
    RankingOptions,
    candidate_scores,
    rank,
    soft_nms,
    suppress,
)
from avfusion.detectors.gtad_windows import (
    Grid,
    candidate_frames,
    cut,
    instances_of_window,
    window_starts,
    window_targets,
)
from avfusion.engine.device import exact_float32
from avfusion.engine.optimise import make_optimiser, take_step
from avfusion.engine.ranking import detections_from_proposals
from avfusion.engine.schedule import published_training

SKIP = 5
GRID = Grid(scale=32, durations=16, skip=SKIP)


@cache
def arrays(golden: Path, name: str = "model") -> dict[str, NDArray[Any]]:
    with np.load(golden / "gtad" / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


@cache
def facts(golden: Path, name: str = "model") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((golden / "gtad" / f"{name}.json").read_text())
    return content


def assert_near(got: Tensor, wanted: NDArray[Any] | Tensor) -> None:
    """Mark F of golden/README.md."""
    wanted = torch.as_tensor(wanted)
    torch.testing.assert_close(
        got.detach(), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()), check_dtype=False
    )


# --- network, losses, optimiser

VARIANTS = ["style1", "style2", "style0", "samp1", "rm"]


def published(golden: Path, variant: str = "style1") -> Gtad:
    given = facts(golden)[variant]["options"]
    options = {
        "temporal_scale": given["temporal_scale"],
        "max_duration": given["max_duration"],
        "style": given["goi_style"],
        "sampling_ratio": given["goi_samp"],
    }
    if variant == "rm":
        options |= {"inner_slots": 32, "context_slots": 4, "attention": 1}
    widths = (512, 128) if variant == "rm" else (given["feat_dim"],)
    return load_recipe(Gtad(Options(**options), widths, 20))


def features_of(golden: Path, variant: str) -> Tensor:
    channels = facts(golden)[variant]["input_channels"]
    shape = (2, channels, facts(golden)[variant]["options"]["temporal_scale"])
    return torch.from_numpy(recipe_input(f"in:gtad/{variant}/features", shape))


def batch_of(golden: Path, place: str, features: Tensor) -> Example:
    data = arrays(golden)
    names = ("start_target", "end_target", "iou_target", "uniform_mid", "uniform_low")
    start, end, iou, *draws = (torch.from_numpy(data[f"{place}/{name}"]) for name in names)
    return Example(features, start, end, iou, torch.stack(draws))


@pytest.mark.parametrize(
    ("name", "options", "widths"),
    [
        ("gtad", Options(), (2048,)),
        ("gtad_feat400", Options(windows="rescaled", temporal_scale=100, max_duration=100), (400,)),
        ("gtad_rm", Options(attention=1, inner_slots=32, context_slots=4), (512, 128)),
    ],
)
def test_names_and_shapes_of_the_state_dict(
    golden: Path, name: str, options: Options, widths: tuple[int, ...]
) -> None:
    state = Gtad(options, widths, 20).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == layout(golden, name)
    assert list(state) == list(layout(golden, name))


@pytest.mark.parametrize("variant", VARIANTS)
def test_maps(golden: Path, variant: str) -> None:
    model, data = published(golden, variant).eval(), arrays(golden)
    inside = torch.from_numpy(data[f"{variant}/anchors"])[:, 1:]
    by_duration = inside.unflatten(0, model.mask.T.shape).transpose(0, 1).flatten(0, 1)
    assert torch.equal(model.anchors, by_duration)
    with torch.no_grad():
        maps = model.maps(features_of(golden, variant))
    for name, key in zip(Maps._fields, ("iou_map", "start", "end"), strict=True):
        assert_near(getattr(maps, name), data[f"{variant}/{key}"])


def test_backbone_and_neighbours(golden: Path) -> None:
    model, data = published(golden), arrays(golden)
    base = model.backbone1(features_of(golden, "style1"))
    found = nearest(base, 3).sort(dim=2).values
    np.testing.assert_array_equal(found, data["style1/knn_of_backbone1"])
    assert_near(model.backbone2(base)[:, :16], data["style1/backbone2[:, :16]"])


@pytest.fixture
def two_threads() -> Iterator[None]:
    """With two threads the gradients are the golden ones to 4e-7.

    With one, oneDNN adds in another order on some processors (Intel's), which changes single gradients by
    more than the tolerance; computing in float64 changes them still more.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_losses_and_gradients(golden: Path) -> None:
    model, data, wanted = published(golden), arrays(golden), facts(golden)["loss"]
    features = features_of(golden, "style1")
    losses = model.losses(model.maps(features), batch_of(golden, "loss", features))
    names = {"regression": "reg", "classification": "cls", "node": "node", "total": "total"}
    for ours, theirs in names.items():
        assert losses[ours].item() == pytest.approx(wanted[theirs], rel=1e-5)
    losses["total"].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, norm in wanted["grad_l2"].items():
        assert gradients[name].double().norm().item() == pytest.approx(norm, rel=1e-5), name
    for key, value in data.items():
        if key.startswith("loss/grad/"):
            name, _, part = key.removeprefix("loss/grad/").partition("[")
            gradient = gradients[name]
            assert_near(gradient[:8, :8] if part else gradient, value)


def test_adam_steps(golden: Path) -> None:
    model, wanted = published(golden), facts(golden)["adam"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = published_training("gtad")
    given = (options.lr, options.weight_decay, options.clip_norm)
    assert given == (wanted["lr"], wanted["weight_decay"], wanted["clip_grad_norm"])
    optimiser = make_optimiser(model, options)
    found = []
    for step in range(2):
        shape = (2, 64, GRID.scale)
        features = torch.from_numpy(recipe_input(f"in:gtad/adam/features/step{step}", shape))
        losses = model.losses(model.maps(features), batch_of(golden, f"adam/step{step}", features))
        found += [losses["regression"].item() + 10 * losses["classification"].item(), losses["node"].item()]
        losses["total"].backward()
        take_step(model, optimiser, options)
    assert found == pytest.approx([value for _, value in wanted["losses"]], rel=1e-5)
    state = model.state_dict()
    for name, change in wanted["delta_l2"].items():
        assert (state[name] - before[name]).double().norm().item() == pytest.approx(change, rel=1e-3), name
    for key, value in arrays(golden).items():
        name = key.removeprefix("adam/")
        if name in state:
            assert_near(state[name], value)


@pytest.mark.gpu
@pytest.mark.parametrize("variant", VARIANTS)
def test_on_a_gpu(golden: Path, variant: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model, data = published(golden, variant).cuda().eval(), arrays(golden)
    features = features_of(golden, variant).cuda()
    with torch.no_grad(), exact_float32():
        maps = model.maps(features)
    for name, key in zip(Maps._fields, ("iou_map", "start", "end"), strict=True):
        assert_near(getattr(maps, name).cpu(), data[f"{variant}/{key}"])


@pytest.mark.gpu
def test_losses_on_a_gpu_without_waiting_for_it(golden: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model, wanted = published(golden).cuda(), facts(golden)["loss"]
    batch = batch_of(golden, "loss", features_of(golden, "style1"))
    batch = Example(*(value.cuda() for value in batch))
    with exact_float32():
        maps = model.maps(batch.features)
        try:
            torch.cuda.set_sync_debug_mode("error")
            losses = model.losses(maps, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert losses["total"].item() == pytest.approx(wanted["total"], rel=1e-5)
        losses["total"].backward()
    for name, norm in wanted["grad_l2"].items():
        assert model.get_parameter(name).grad.double().norm().item() == pytest.approx(norm, rel=1e-5), name


# --- windows and targets


def sequence(golden: Path, video: str) -> Tensor:
    """Features (C, snippets): flow and rgb of every `SKIP`-th frame, as far as there are both."""
    rows = facts(golden)["targets"]["feature_rows"]
    streams = [
        recipe_input(f"in:gtad/features/{s}/{video}", (rows[f"{s}/{video}"], 3)) for s in ("flow", "rgb")
    ]
    shortest = min(map(len, streams))
    joined = np.concatenate([stream[:shortest] for stream in streams], axis=1)
    return torch.from_numpy(joined[::SKIP].T.copy())


def annotated(golden: Path, mode: str) -> dict[str, NDArray[np.float64]]:
    """Instances in frames, `Ambiguous` ones included, by video."""
    name = "val" if mode == "train" else "test"
    videos: dict[str, list[list[float]]] = {}
    with (golden / "gtad" / f"{name}_Annotation.csv").open() as file:
        for row in csv.DictReader(file):
            videos.setdefault(row["video"], []).append([float(row["startFrame"]), float(row["endFrame"])])
    return {video: np.array(rows) for video, rows in videos.items()}


@pytest.mark.parametrize("mode", ["train", "validation"])
def test_training_windows_and_their_targets(golden: Path, mode: str) -> None:
    wanted, data = facts(golden)["targets"][mode], arrays(golden)
    found = []
    for video, instances in annotated(golden, mode).items():
        features = sequence(golden, video)
        for first in window_starts(features.shape[1], GRID):
            seen = instances_of_window(instances, first, GRID)
            if seen is not None:
                found.append((video, first, seen, cut(features, first, GRID.scale)))
    assert [video for video, *_ in found] == wanted["videos"]
    bounds = [[SKIP * first, SKIP * (first + GRID.scale - 1)] for _, first, *_ in found]
    assert bounds == wanted["indices_first_last"]
    assert [seen.tolist() for _, _, seen, _ in found] == wanted["gt_bbox"]
    for k, (_, first, seen, features) in enumerate(found):
        np.testing.assert_array_equal(features, data[f"targets/{mode}/features"][k])
        targets = window_targets(seen, first, GRID)
        for name, got in (("start", targets.start), ("end", targets.end), ("iou_map", targets.iou)):
            np.testing.assert_allclose(got, data[f"targets/{mode}/{name}"][k], atol=1e-6, rtol=0)


def test_windows_of_inference(golden: Path) -> None:
    wanted, k = facts(golden)["targets"]["inference"], 0
    for video in dict.fromkeys(wanted["videos"]):
        features = sequence(golden, video)
        for first in window_starts(features.shape[1], GRID):
            assert wanted["videos"][k] == video and wanted["indices_first_last"][k][0] == SKIP * first
            window = cut(features, first, GRID.scale)
            np.testing.assert_array_equal(window, arrays(golden)["targets/inference/features"][k])
            k += 1
    assert k == len(wanted["videos"])


def test_masks_of_the_maps(golden: Path) -> None:
    np.testing.assert_array_equal(GRID.mask(), arrays(golden)["loss/mask"])
    np.testing.assert_array_equal(GRID.mask(shortest=3), arrays(golden)["loss/mask_min3"])


# --- from maps to proposals


def windows(golden: Path) -> list[tuple[str, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """Key, segments in frames, scores and the published table of every stored window."""
    data, videos = arrays(golden, "postprocess"), facts(golden, "postprocess")["videos"]
    tables = []
    for maps, offset, video in zip(data["maps"], data["offsets"], videos, strict=True):
        proposed, frames = candidate_frames(int(offset) // SKIP, GRID)
        key = f"{video}_{offset // 250}"
        table = np.column_stack([frames, maps[1][proposed], maps[0][proposed]]).astype(np.float64)
        tables.append((key, frames, candidate_scores(maps, proposed), table))
    return tables


def test_tables_of_the_windows(golden: Path) -> None:
    for key, _, _, table in windows(golden):
        np.testing.assert_allclose(table, arrays(golden, "postprocess")[f"table/{key}"], rtol=1e-9)


def test_suppression_in_a_window(golden: Path) -> None:
    for key, segments, scores, _ in windows(golden):
        best = suppress(segments, scores, RankingOptions(), 200)
        got = np.column_stack([best.segments, best.scores])
        np.testing.assert_allclose(got, arrays(golden, "postprocess")[f"softnms/{key}"], rtol=1e-9)


def test_long_segments_are_dropped(golden: Path) -> None:
    table = arrays(golden, "postprocess")["softnms_long/in"]
    segments, scores = table[:, :2], table[:, 2]
    usable = np.where(segments[:, 1] - segments[:, 0] >= 300, 0, scores)
    kept, decayed = soft_nms(segments, usable, 0.46, count=25)  # as many as are stored
    got = np.column_stack([segments[kept], decayed])
    np.testing.assert_allclose(got, arrays(golden, "postprocess")["softnms_long/out"], rtol=1e-9)


def test_detections(golden: Path) -> None:
    """Windows in the order of their names, one suppression over all, then the two best classes of a video."""
    wanted, data = facts(golden, "postprocess"), arrays(golden, "postprocess")
    labels = [wanted["class_names"][str(k + 1)] for k in wanted["class_ids"]]
    ranked, durations = {}, {}
    for video, about in wanted["fps_and_frames"].items():
        mine = sorted((entry for entry in windows(golden) if entry[0].startswith(video)), key=lambda e: e[0])
        segments = [frames for _, frames, *_ in mine]
        best = rank(segments, [scores for _, _, scores, _ in mine], SKIP, RankingOptions())
        ranked[video] = RankedProposals(best.segments / about["fps"], best.scores)
        durations[video] = about["num_frames"] / about["fps"]
    scores = dict(zip(ranked, data["class_scores"], strict=True))
    config = {"proposals": wanted["num_prop"], "classes": wanted["topk"]}
    found = detections_from_proposals(ranked, scores, labels, durations, config)
    expected = [
        (video, row["label"], row["score"], row["segment"])
        for video, rows in wanted["detections"].items()
        for row in rows
    ]
    assert len(found) == len(expected)
    for k, (video, label, score, segment) in enumerate(expected):
        assert (found.videos[found.video[k]], found.labels[found.label[k]]) == (video, label)
        assert [found.start[k], found.end[k]] == segment
        assert found.score[k] == pytest.approx(score, rel=1e-9)
