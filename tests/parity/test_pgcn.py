"""P-GCN against the published network, losses, gradients, pooling, graphs and sampling (golden/pgcn)."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dense_pgcn import dense_score
from golden_recipe import layout, load_recipe, recipe_input
from numpy.typing import NDArray
from torch import Tensor

from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.data.proposal_list import ListedVideo, read_proposal_list
from avfusion.detectors.base import Video
from avfusion.detectors.graphs import GraphOptions, grow_all, neighbours, relations
from avfusion.detectors.parts import part_rows, pool_parts
from avfusion.detectors.pgcn import Options, Pgcn, PgcnTrainingSet, pool_segments
from avfusion.detectors.sampling import (
    SamplingOptions,
    VideoPools,
    listed_candidates,
    prediction_rois,
    regression_statistics,
    video_pools,
)
from avfusion.engine.optimise import OptimiserOptions, parameter_groups

KINDS = ["rgb", "rm"]
WIDTHS = {"rgb": (1024,), "rm": (512, 128)}


def assert_near(got: Tensor, wanted: NDArray[Any] | Tensor) -> None:
    """Mark F of golden/README.md."""
    wanted = torch.as_tensor(wanted)
    torch.testing.assert_close(
        got.detach(), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()), check_dtype=False
    )


@cache
def arrays(golden: Path, name: str) -> dict[str, NDArray[Any]]:
    with np.load(golden / "pgcn" / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


@cache
def facts(golden: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((golden / "pgcn" / f"{name}.json").read_text())
    return content


def published(kind: str, **changes: Any) -> Pgcn:
    options = Options(dropout=0.0, graph_dropout=0.0, attention=int(kind == "rm"), **changes)
    return load_recipe(Pgcn(options, WIDTHS[kind], 20))


def inputs(kind: str) -> tuple[Tensor, Tensor]:
    """Features inside (336, C) and of the three parts (336, 3 C) of two videos' 8 graphs of 21 nodes."""
    channels = sum(WIDTHS[kind])
    named = (("act", channels), ("comp", 3 * channels))
    inside, parts = (
        torch.from_numpy(np.abs(recipe_input(f"in:pgcn/{kind}/{name}", (2, 168, width))))
        for name, width in named
    )
    return inside.flatten(0, 1), parts.flatten(0, 1)


SEGMENTS = ["segments", "segments_iou", "segments_distance"]
GRAPHS = torch.arange(336).view(16, 21)


@pytest.mark.parametrize(
    ("name", "widths", "classes"),
    [("pgcn", (1024,), 20), ("pgcn_200_classes", (1024,), 200), ("pgcn_rm", (512, 128), 20)],
)
def test_names_and_shapes_of_the_state_dict(
    golden: Path, name: str, widths: tuple[int, ...], classes: int
) -> None:
    state = Pgcn(Options(attention=int(name == "pgcn_rm")), widths, classes).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == layout(golden, name)
    assert list(state) == list(layout(golden, name))


@pytest.mark.parametrize("kind", KINDS)
def test_training_form_losses_and_gradients(golden: Path, kind: str) -> None:
    model, data = published(kind), arrays(golden, f"model_{kind}")
    wanted = facts(golden, f"model_{kind}")["train"]
    inside, parts = inputs(kind)
    given = inside.clone(), parts.clone()
    scores = model.score(inside, parts, GRAPHS)
    assert torch.equal(inside, given[0]) and torch.equal(parts, given[1])  # published: changed in place
    kinds, labels, targets = (
        torch.from_numpy(data[f"train/{name}"][:, ::21].astype(form))
        for name, form in (("prop_type", np.int64), ("label", np.int64), ("reg_target_in", np.float32))
    )
    assert_near(scores.activity[kinds.flatten() != 1], data["train/act_scores"])
    assert_near(scores.completeness.unflatten(0, (2, 8))[:, :7].flatten(0, 1), data["train/comp_scores"])
    assert_near(scores.regression[kinds.flatten() == 0], data["train/reg_scores"])
    losses = model.losses(scores, kinds, labels, targets)
    names = {"activity": "act_loss", "completeness": "comp_loss", "regression": "reg_loss", "total": "total"}
    for ours, theirs in names.items():
        assert losses[ours].item() == pytest.approx(wanted[theirs], rel=1e-5)
    losses["total"].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert set(gradients) == set(wanted["grad_l2"])
    for name, norm in wanted["grad_l2"].items():
        assert gradients[name].double().norm().item() == pytest.approx(norm, rel=1e-5, abs=1e-12), name
    for key in (key for key in data if key.startswith("train/grad/")):
        name, _, part = key.removeprefix("train/grad/").partition("[")
        assert_near(gradients[name][:8, :16] if part else gradients[name], data[key])


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_the_optimiser(golden: Path, kind: str) -> None:
    model, options = published(kind), OptimiserOptions(weight_decay=0.25)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, options)
    for ours, theirs in zip(groups, facts(golden, f"model_{kind}")["groups"], strict=True):
        assert [names[id(parameter)] for parameter in ours["params"]] == theirs["params"]
        assert (ours["rate"], ours["weight_decay"]) == (theirs["lr_mult"], 0.25 * theirs["decay_mult"])


@pytest.mark.parametrize("kind", KINDS)
def test_adjacency_and_input_of_the_graph_convolutions(golden: Path, kind: str) -> None:
    model, data = published(kind), arrays(golden, f"model_{kind}")
    features = dict(zip(("act", "comp"), inputs(kind), strict=True))
    if kind == "rm":
        features = dict(zip(features, model._attended(*features.values()), strict=True))
    for name, network in (("act", model.Act_GCN), ("comp", model.Comp_GCN)):
        assert_near(features[name][:2], data[f"train/gcn_input_{name}[:2]"])
        weights = network.edges(*network.by_parent(features[name], GRAPHS[:1]))[0]
        adjacency = torch.zeros(21, 21)
        adjacency[range(5), range(5)] = 1
        for parent in range(5):
            adjacency[parent, 4 * parent + 1 : 4 * parent + 5] = weights[parent]
        assert_near(adjacency, data[f"train/adjacency_{name}_graph0"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("form", "graphs"), [("test", slice(0, 8)), ("test_one_graph", slice(8, 9))])
def test_test_form(golden: Path, kind: str, form: str, graphs: slice) -> None:
    model, data = published(kind).eval(), arrays(golden, f"model_{kind}")
    with torch.no_grad():
        scores = model.score(*inputs(kind), GRAPHS[graphs])
    assert_near(scores.activity, data[f"{form}/act"])
    assert_near(scores.completeness, data[f"{form}/comp"])
    assert_near(scores.regression.flatten(1), data[f"{form}/reg"])


# --- pooling, neighbours and sampling; the proposals are those of golden/muses/proposal_list.txt


@pytest.mark.parametrize("case", ["long", "short", "two"])
def test_pooling(golden: Path, case: str) -> None:
    data = {key.partition("/")[2]: value for key, value in arrays(golden, "pooling").items() if case in key}
    rows = part_rows(data["proposals"].astype(np.int64), len(data["features"]), 64)
    parts = pool_parts(torch.from_numpy(data["features"].T.copy()), torch.from_numpy(rows))
    np.testing.assert_array_equal(parts[:, 1], data["act"])
    np.testing.assert_array_equal(parts.flatten(1), data["comp"])


def videos(golden: Path) -> dict[str, ListedVideo]:
    found = read_proposal_list(golden / "muses" / "proposal_list.txt")
    return {video.id: video for video in found}


def pools_of(video: ListedVideo) -> VideoPools:
    everything = 10**6  # P-GCN keeps proposals of classes that do not exist
    return video_pools(*listed_candidates(video, everything), video.frames, SamplingOptions())


def test_training_pools_and_statistics(golden: Path) -> None:
    wanted, listed, data = facts(golden, "sampling"), videos(golden), arrays(golden, "sampling")
    pools = {name: pools_of(listed[name]) for name in wanted["train_ids"]}
    for name, pool in pools.items():
        counts = [wanted["videos"][name][key] for key in ("n_fg", "n_incomplete", "n_bg")]
        assert [len(kind) for kind in pool.kinds()] == counts
        np.testing.assert_array_equal(pool_segments(pool), data[f"pool/{name}"])
    np.testing.assert_allclose(regression_statistics(list(pools.values())), wanted["reg_stats"], rtol=1e-9)
    sizes = np.sum([[len(kind) for kind in pool.kinds()] for pool in pools.values()], axis=0)
    assert sizes.tolist() == list(wanted["pool_sizes"].values())


def test_relations_and_neighbours(golden: Path) -> None:
    wanted, data = facts(golden, "sampling"), arrays(golden, "sampling")
    tables = [
        (data[f"pool/{name}"], data[f"iou/{name}"], data[f"distance/{name}"]) for name in wanted["videos"]
    ]
    for segments, *both in [*tables, [data[f"segments{key}"] for key in ("", "_iou", "_distance")]]:
        segments = segments.astype(np.int64)
        for got, theirs in zip(relations(segments, segments), both, strict=True):
            np.testing.assert_allclose(got, theirs, rtol=1e-9)
    for name, video in wanted["videos"].items():
        found = neighbours(data[f"pool/{name}"].astype(np.int64), GraphOptions())
        assert found.tolist() == video["candidates_8iou_2distance"]


def test_graphs_when_testing(golden: Path) -> None:
    wanted, listed = facts(golden, "sampling"), videos(golden)
    assert list(wanted["test_videos"]) == wanted["test_ids"]
    for name, video in wanted["test_videos"].items():
        _, proposals = listed_candidates(listed[name], 10**6)
        segments = np.stack([proposals.start, proposals.end], axis=1)
        np.testing.assert_array_equal(segments, arrays(golden, "sampling")[f"test_pool/{name}"])
        table = neighbours(segments, GraphOptions(), first_alike=True)
        assert table.tolist() == video["candidates_8iou_2distance"]
        graphs = grow_all(table, 4, np.random.RandomState(777))
        assert graphs.tolist() == video["graphs_numpy_seed_777"]


def test_training_items(golden: Path) -> None:
    wanted, listed, data = facts(golden, "sampling"), videos(golden), arrays(golden, "sampling")
    features = torch.from_numpy(data["sampling_features"].T.copy())
    pools = [pools_of(listed[name]) for name in wanted["train_ids"]]
    detector = Pgcn(Options(hidden=1), (6,), 20)
    detector.reg_stats.copy_(torch.tensor(wanted["reg_stats"]))
    rows = [
        part_rows(np.concatenate([kind.rois for kind in p.kinds()]), features.shape[1], 64) for p in pools
    ]
    examples = PgcnTrainingSet([features] * len(pools), rows, pools, detector)
    rng = np.random.RandomState(777)
    for index, entry in enumerate(wanted["training_items_numpy_seed_777"]):
        assert entry["index"] == index
        example = examples.draw(index, rng)
        parts = pool_parts(features, torch.from_numpy(example.rows))[example.graphs.flatten()]
        np.testing.assert_array_equal(parts[:, 1], data[f"item{index}/act"])
        sums = parts.double().flatten(1).sum(1)
        np.testing.assert_allclose(sums, data[f"item{index}/comp_sum"], rtol=1e-9, atol=1e-9)
        assert example.sample.kinds.tolist() == entry["type"][::21]
        assert example.sample.labels.tolist() == entry["label"][::21]
        targets = entry["reg_target"][::21]
        np.testing.assert_allclose(example.sample.targets, targets, rtol=1e-6, atol=1e-7)


def test_prediction_from_seconds(golden: Path) -> None:
    """The whole way of a test video: ticks, pooling, the graphs of seed 777, and the dense network."""
    wanted = facts(golden, "sampling")["test_videos"]
    name, fps = "video_validation_0000001", 29.97
    listed = videos(golden)[name]
    _, candidates = listed_candidates(listed, 10**6)
    segments = np.stack([candidates.start, candidates.end], axis=1)
    snippets = (listed.frames - 64) // 8 + 1
    values = np.abs(recipe_input("in:test/prediction", (snippets, 6)))
    features = VideoFeatures(values, TimeAxis(32 / fps, 8 / fps, 64 / fps))
    detector = load_recipe(Pgcn(Options(hidden=8), (6,), 20)).eval()
    scores = detector.predict(Video(name, features, segments / fps))

    rois = prediction_rois(segments / listed.frames, listed.frames)
    parts = pool_parts(torch.from_numpy(values.T.copy()), torch.from_numpy(part_rows(rois, snippets, 64)))
    graphs = torch.tensor(wanted[name]["graphs_numpy_seed_777"])
    with torch.no_grad():
        dense = dense_score(detector, parts[:, 1], parts.flatten(1), graphs)
    assert_near(torch.from_numpy(scores.activity), dense.activity)
    assert_near(torch.from_numpy(scores.completeness), dense.completeness)
    assert_near(torch.from_numpy(scores.regression), dense.regression)
