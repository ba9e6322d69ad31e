"""MUSES against the published network, losses, optimiser and sampling (golden/muses, golden/ops)."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_recipe import layout, load_recipe, recipe_input
from numpy.typing import NDArray
from torch import Tensor

from avfusion.data.proposal_list import read_proposal_list
from avfusion.detectors.muses import HeadScores, Muses, Options
from avfusion.detectors.sampling import (
    Candidates,
    SamplingOptions,
    VideoPools,
    draw_sample,
    listed_candidates,
    prediction_rois,
    regression_statistics,
    video_pools,
)
from avfusion.engine.optimise import (
    OptimiserOptions,
    learning_rate,
    make_optimiser,
    parameter_groups,
    set_rate,
)

WIDTHS = {"rgb": (1024,), "rm": (1024, 128)}
MODELS = pytest.mark.parametrize("kind", WIDTHS)
STEPS = ["train0", "train1"]


def assert_near(got: Tensor, wanted: NDArray[Any] | Tensor) -> None:
    """Mark F of golden/README.md."""
    wanted = torch.as_tensor(wanted)
    torch.testing.assert_close(
        got.detach(), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()), check_dtype=False
    )


@cache
def arrays(golden: Path, kind: str) -> dict[str, NDArray[Any]]:
    with np.load(golden / "muses" / f"model_{kind}.npz", allow_pickle=False) as file:
        return dict(file)


@cache
def facts(golden: Path, kind: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((golden / "muses" / f"model_{kind}.json").read_text())
    return content


def published(kind: str) -> Muses:
    return load_recipe(Muses(Options(dropout=0.0, attention=int(kind == "rm")), WIDTHS[kind], 20))


def features_of(kind: str, step: str) -> Tensor:
    videos, snippets = {"test": (1, 96), "test_short": (1, 5)}.get(step, (2, 96))
    name = f"in:muses/{kind}/features/{step.replace('train', 'step')}"
    return torch.from_numpy(recipe_input(name, (videos, sum(WIDTHS[kind]), snippets)))


def batched(rois: NDArray[np.int32]) -> Tensor:
    """RoIs (B, P, 4) as (B * P, 5) with the index into the batch."""
    table = torch.from_numpy(rois.astype(np.int64))
    index = torch.arange(len(table))[:, None, None].expand(*table.shape[:2], 1)
    return torch.cat([index, table], 2).flatten(0, 1)


def run_step(model: Muses, step: str, data: dict[str, NDArray[Any]]) -> tuple[HeadScores, dict[str, Tensor]]:
    kind = "rm" if model.options.attention else "rgb"
    scores = model.score(features_of(kind, step), batched(data[f"{step}/rois"]))
    kinds, labels = (
        torch.from_numpy(data[f"{step}/{key}"].astype(np.int64)) for key in ("prop_type", "prop_label")
    )
    return scores, model.losses(scores, kinds, labels, torch.from_numpy(data[f"{step}/reg_target_in"]))


def test_names_and_shapes_of_the_state_dict(golden: Path) -> None:
    for name, kind, classes in (
        ("muses", "rgb", 20),
        ("muses_25_classes", "rgb", 25),
        ("muses_rm", "rm", 20),
    ):
        state = Muses(Options(attention=int(kind == "rm")), WIDTHS[kind], classes).state_dict()
        assert {key: tuple(value.shape) for key, value in state.items()} == layout(golden, name)
        assert list(state) == list(layout(golden, name))


@MODELS
@pytest.mark.parametrize("step", STEPS)
def test_training_form_losses_and_gradients(golden: Path, step: str, kind: str) -> None:
    model, data, wanted = published(kind), arrays(golden, kind), facts(golden, kind)[step]
    scores, losses = run_step(model, step, data)
    kinds = torch.from_numpy(data[f"{step}/prop_type"].astype(np.int64)).flatten()
    assert_near(scores.activity[kinds != 1], data[f"{step}/act_scores"])
    assert_near(scores.completeness.unflatten(0, (2, 8))[:, :7].flatten(0, 1), data[f"{step}/comp_scores"])
    assert_near(scores.regression[kinds == 0], data[f"{step}/reg_scores"])
    names = {"activity": "act_loss", "completeness": "comp_loss", "regression": "reg_loss", "total": "total"}
    for ours, theirs in names.items():
        assert losses[ours].item() == pytest.approx(wanted[theirs], rel=1e-5)
    losses["total"].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, norm in wanted["grad_l2"].items():
        assert gradients[name].double().norm().item() == pytest.approx(norm, rel=1e-5), name
    for key, value in data.items():
        if key.startswith(f"{step}/grad/"):
            name = key.removeprefix(f"{step}/grad/")
            gradient = gradients[name.split("[")[0]]
            part = {
                "[:4,:16,0]": lambda g: g[:4, :16, 0],
                "[:,:8]": lambda g: g[:, :8],
                "[:4,:64]": lambda g: g[:4, :64],
            }
            assert_near(part.get("[" + name.partition("[")[2], lambda g: g)(gradient), value)


@MODELS
@pytest.mark.parametrize("step", ["test", "test_short"])
def test_test_form(golden: Path, step: str, kind: str) -> None:
    model, data = published(kind), arrays(golden, kind)
    model.eval()
    with torch.no_grad():
        scores = model.score(features_of(kind, step), batched(data[f"{step}/rois"][None]))
        if kind == "rgb":
            backbone = model.backbone(features_of(kind, step))
            wanted = facts(golden, kind)[step]["backbone_l2"]
            assert backbone.norm().item() == pytest.approx(wanted, rel=1e-5)
            assert_near(backbone[0, :32], data[f"{step}/backbone[:, :32]"])
    assert_near(scores.activity, data[f"{step}/act"])
    assert_near(scores.completeness, data[f"{step}/comp"])
    assert_near(scores.regression.flatten(1), data[f"{step}/reg"])


@MODELS
@pytest.mark.parametrize("run", ["sgd", "sgd_accumulate2"])
def test_sgd_steps(golden: Path, run: str, kind: str) -> None:
    model, data, wanted = published(kind), arrays(golden, kind), facts(golden, kind)[run]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = OptimiserOptions(
        optimizer="sgd",
        lr=wanted["base_lr"],
        weight_decay=wanted["base_weight_decay"],
        momentum=wanted["momentum"],
        accumulate=wanted["iter_size"],
    )
    optimiser = make_optimiser(model, options)
    losses: list[float] = []
    for k in range(wanted["batches"]):
        _, step = run_step(model, f"train{k}", data)
        losses += [step[name].item() for name in ("activity", "completeness", "regression")]
        (step["total"] / options.accumulate).backward()
        if (k + 1) % options.accumulate == 0:
            optimiser.step()
            optimiser.zero_grad()
    assert losses == pytest.approx([value for _, value in wanted["losses"]], rel=1e-5)
    state = model.state_dict()
    for name, change in wanted["delta_l2"].items():
        assert (state[name] - before[name]).double().norm().item() == pytest.approx(change, rel=1e-4), name
    for key, value in data.items():
        if key.startswith(f"{run}/") and "[" not in key:
            assert_near(state[key.removeprefix(f"{run}/")], value)


@MODELS
def test_groups_and_schedule_of_the_optimiser(golden: Path, kind: str) -> None:
    wanted = facts(golden, kind)["sgd"]
    options = OptimiserOptions(
        optimizer="sgd", lr=wanted["base_lr"], weight_decay=wanted["base_weight_decay"], steps=(15, 30, 45)
    )
    model = published(kind)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, options)
    for ours, theirs in zip(groups, wanted["groups"], strict=False):
        assert [names[id(parameter)] for parameter in ours["params"]] == theirs["params"]
    optimiser = make_optimiser(model, options)
    for entry in wanted["schedule"]:
        set_rate(optimiser, learning_rate(options, entry["epoch"]))
        rates = [group["lr"] for group in optimiser.param_groups]
        assert rates == pytest.approx(entry["lr"][:2], rel=1e-12)
        assert [g["weight_decay"] for g in optimiser.param_groups] == entry["weight_decay"][:2]


@pytest.mark.parametrize("name", ["muses_detector", "muses_detector_batched"])
def test_small_detector(golden: Path, name: str) -> None:
    with np.load(golden / "ops" / f"{name}.npz", allow_pickle=False) as file:
        data = {key: torch.from_numpy(file[key]) for key in file.files}
    model = Muses(Options(backbone_dims=(6, 5), hidden=7, dropout=0.0), (9,), 4)
    prefix = "in.param."
    model.load_state_dict({k.removeprefix(prefix): v for k, v in data.items() if k.startswith(prefix)})
    features = data["in.input"].requires_grad_()
    scores = model.score(features, batched(data["in.rois"].numpy()))
    losses = model.losses(scores, data["in.prop_type"], data["in.labels"], data["in.reg_targets"])
    losses["total"].backward()
    got = {
        "test_act": scores.activity,
        "test_comp": scores.completeness,
        "test_reg": scores.regression.flatten(1),
        "act_loss": losses["activity"],
        "comp_loss": losses["completeness"].reshape(1),
        "reg_loss": losses["regression"],
        "grad_input": features.grad,
        **{f"grad.{key}": value.grad for key, value in model.named_parameters()},
    }
    assert {key.removeprefix("out.") for key in data if key.startswith("out.")} - set(got) == {
        *("train_act", "train_comp", "train_reg"),
    }
    for key, value in got.items():
        assert value is not None
        torch.testing.assert_close(value.detach(), data[f"out.{key}"], rtol=2e-4, atol=5e-5)


# --- proposals: golden/muses/dataset.json, made from proposal_list.txt


def dataset(golden: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((golden / "muses" / "dataset.json").read_text())
    return content


def proposal_list(golden: Path) -> dict[str, tuple[int, Candidates, Candidates]]:
    """Ticks, instances and proposals of every video of the list."""
    videos = read_proposal_list(golden / "muses" / "proposal_list.txt")
    return {video.id: (video.frames, *listed_candidates(video, 20)) for video in videos}


def pools_of(golden: Path) -> dict[str, VideoPools]:
    return {
        name: video_pools(instances, proposals, ticks, SamplingOptions())
        for name, (ticks, instances, proposals) in proposal_list(golden).items()
        if len(instances)
    }


def test_the_published_options_are_the_defaults(golden: Path) -> None:
    config, options = dataset(golden)["config"], SamplingOptions()
    assert options.counts == (config["fg_ratio"], config["incomplete_ratio"], config["bg_ratio"])
    assert options.foreground_iou == config["fg_iou_thresh"]
    assert options.incomplete_iou == config["incomplete_iou_thresh"]
    assert options.incomplete_overlap == config["incomplete_overlap_thresh"]
    assert options.background_iou == config["bg_iou_thresh"]
    assert options.background_coverage == config["bg_coverage_thresh"]


def test_usable_instances_and_proposals(golden: Path) -> None:
    videos = proposal_list(golden)
    assert list(videos) == dataset(golden)["test_videos"]
    for video in dataset(golden)["train"]:
        ticks, *tables = videos[video["id"]]
        assert ticks == video["num_frames"]
        for table, key in zip(tables, ("gt", "proposals"), strict=True):
            columns = {
                "start": table.start,
                "end": table.end,
                "label": table.label,
                "coverage": table.coverage,
            }
            for name, column in columns.items():
                assert column.tolist() == pytest.approx([entry[name] for entry in video[key]], rel=1e-12)


def test_pools(golden: Path) -> None:
    wanted, pools = dataset(golden), pools_of(golden)
    assert list(pools) == wanted["train_videos"]
    statistics = regression_statistics(list(pools.values()))
    np.testing.assert_allclose(statistics, wanted["reg_stats"], rtol=1e-9)
    for video in wanted["train"]:
        ours = pools[video["id"]]
        kinds = [ours.foreground, ours.incomplete, ours.background]
        assert [len(pool) for pool in kinds] == [
            len(video[k]) for k in ("foreground", "incomplete", "background")
        ]
        np.testing.assert_allclose(ours.foreground.targets, video["foreground_reg_targets"], rtol=1e-9)
        loaded = video["loaded"]
        assert np.concatenate([pool.rois for pool in kinds]).tolist() == [entry["ticks"] for entry in loaded]
        assert np.concatenate([pool.labels for pool in kinds]).tolist() == [e["label"] for e in loaded]
        assert [pool.kind for pool in kinds for _ in range(len(pool))] == [e["type"] for e in loaded]
        normalised = (ours.foreground.targets - statistics[0]) / statistics[1]
        theirs = [e["normalised_reg_target"] for e in loaded if e["type"] == 0]
        np.testing.assert_allclose(normalised, theirs, rtol=1e-9)


def test_sampled_sequences(golden: Path) -> None:
    wanted, pools = dataset(golden), list(pools_of(golden).values())
    statistics = regression_statistics(pools)
    for seed in {entry["numpy_seed"] for entry in wanted["sampled"]}:
        rng = np.random.RandomState(seed)
        for entry in (entry for entry in wanted["sampled"] if entry["numpy_seed"] == seed):
            sample = draw_sample(pools[entry["index"]], statistics, (1, 6, 1), rng)
            assert sample.rois.tolist() == entry["ticks"]
            assert sample.kinds.tolist() == entry["type"]
            assert sample.labels.tolist() == entry["label"]
            np.testing.assert_allclose(sample.targets, entry["reg_target"], rtol=1e-6)


def test_ticks_when_testing(golden: Path) -> None:
    videos = proposal_list(golden)
    for video in dataset(golden)["test"]:
        ticks, _, proposals = videos[video["id"]]
        relative = np.stack([proposals.start, proposals.end], 1) / ticks
        np.testing.assert_array_equal(relative, video["relative"])
        assert prediction_rois(relative, ticks).tolist() == video["ticks"]
