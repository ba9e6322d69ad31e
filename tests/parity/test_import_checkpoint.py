"""Files like the released ones, by the stored layouts and the recipe: imported, they give golden scores."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_recipe import recipe_input, recipe_weights

from avfusion.backbones.weights import BackboneConfig, build_backbone
from avfusion.detectors.gtad import Gtad
from avfusion.detectors.muses import Muses
from avfusion.detectors.pgcn import Pgcn
from avfusion.engine.checkpoint import read_checkpoint
from avfusion.engine.import_checkpoint import import_checkpoint
from avfusion.engine.predict import load_detector
from avfusion.errors import InputError

REG_STATS = np.array([[0.1, -0.2], [0.3, 0.4]])


def released(golden: Path, name: str, path: Path) -> Path:
    """A file with the names, shapes and wrapper of a released one."""
    layout = json.loads((golden / "layouts" / f"{name}.json").read_text())
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    shapes = ((entry["name"].removeprefix("module."), entry["shape"]) for entry in layout["entries"])
    for entry, value in zip(layout["entries"], recipe_weights(shapes).values(), strict=True):
        state[entry["name"]] = torch.from_numpy(np.asarray(value))
    content: Any = state
    if "reg_stats" in layout["wrapper"]:
        content = {"epoch": 9, "state_dict": state, "best_loss": np.float64(1.0), "reg_stats": REG_STATS}
    elif "epoch" in layout["wrapper"]:
        content = {"epoch": 9, "state_dict": state}
    torch.save(content, path)
    return path


@pytest.mark.parametrize(("name", "kind"), [("muses", "rgb"), ("muses_rm", "rm")])
def test_muses(golden: Path, tmp_path: Path, name: str, kind: str) -> None:
    source = released(golden, name, tmp_path / "m.pth.tar")
    found = import_checkpoint(source, tmp_path / "m.pt")
    assert found.kind == "muses" and len(found.labels) == 20
    assert list(found.widths) == ([1024, 128] if kind == "rm" else [1024])
    detector = load_detector(read_checkpoint(tmp_path / "m.pt")).eval()
    assert isinstance(detector, Muses)
    np.testing.assert_array_equal(detector.reg_stats, REG_STATS)
    with np.load(golden / "muses" / f"model_{kind}.npz", allow_pickle=False) as data:
        rois = torch.from_numpy(data["test/rois"].astype(np.int64))
        features = recipe_input(f"in:muses/{kind}/features/test", (1, sum(found.widths), 96))
        with torch.no_grad():
            scores = detector.score(
                torch.from_numpy(features), torch.cat([torch.zeros_like(rois[:, :1]), rois], dim=1)
            )
        for ours, theirs in zip(scores, ("act", "comp", "reg"), strict=True):
            wanted = torch.from_numpy(data[f"test/{theirs}"])
            tolerance = 1e-5 * float(wanted.abs().max())
            torch.testing.assert_close(ours.flatten(1), wanted, rtol=1e-5, atol=tolerance)


def test_attention_trains_from_released_weights(golden: Path, tmp_path: Path) -> None:
    """The first batch of the golden data: its stored loss to begin with, and less after every step."""
    import_checkpoint(released(golden, "muses_rm", tmp_path / "m.pth.tar"), tmp_path / "m.pt")
    detector = load_detector(read_checkpoint(tmp_path / "m.pt")).eval()  # without dropout, as stored
    assert isinstance(detector, Muses)
    features = torch.from_numpy(recipe_input("in:muses/rm/features/step0", (2, 1152, 96)))
    with np.load(golden / "muses" / "model_rm.npz", allow_pickle=False) as data:
        rois, kinds, labels = (
            torch.from_numpy(data[f"train0/{name}"].astype(np.int64))
            for name in ("rois", "prop_type", "prop_label")
        )
        targets = torch.from_numpy(data["train0/reg_target_in"])
    index = torch.arange(2)[:, None, None].expand(2, 8, 1)
    indexed = torch.cat([index, rois], dim=2).flatten(0, 1)
    attention = {name: p for name, p in detector.named_parameters() if name.startswith(("U_v", "U_a"))}
    optimiser = torch.optim.SGD(attention.values(), lr=1e-4)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = detector.losses(detector.score(features, indexed), kinds, labels, targets)["total"]
        loss.backward()
        for name, parameter in attention.items():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        optimiser.step()
        losses.append(loss.item())
    wanted = json.loads((golden / "muses" / "model_rm.json").read_text())["train0"]["total"]
    assert losses[0] == pytest.approx(wanted, rel=1e-5)
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.99 * losses[0]


@pytest.mark.parametrize(("name", "kind"), [("pgcn", "rgb"), ("pgcn_rm", "rm")])
def test_pgcn(golden: Path, tmp_path: Path, name: str, kind: str) -> None:
    source = released(golden, name, tmp_path / "p.pth")
    found = import_checkpoint(source, tmp_path / "p.pt")
    assert found.kind == "pgcn" and len(found.labels) == 20
    assert list(found.widths) == ([512, 128] if kind == "rm" else [1024])
    detector = load_detector(read_checkpoint(tmp_path / "p.pt")).eval()
    assert isinstance(detector, Pgcn)
    channels = sum(found.widths)
    inside, parts = (
        torch.from_numpy(np.abs(recipe_input(f"in:pgcn/{kind}/{part}", (2, 168, width)))[0])
        for part, width in (("act", channels), ("comp", 3 * channels))
    )
    with torch.no_grad():
        scores = detector.score(inside, parts, torch.arange(168).view(8, 21))
    with np.load(golden / "pgcn" / f"model_{kind}.npz", allow_pickle=False) as data:
        for ours, theirs in zip(scores, ("act", "comp", "reg"), strict=True):
            wanted = torch.from_numpy(data[f"test/{theirs}"])
            tolerance = 1e-5 * float(wanted.abs().max())
            torch.testing.assert_close(ours.flatten(1), wanted, rtol=1e-5, atol=tolerance)


def test_pgcn_of_200_classes(golden: Path, tmp_path: Path) -> None:
    source = released(golden, "pgcn_200_classes", tmp_path / "p.pth")
    assert len(import_checkpoint(source, tmp_path / "p.pt").labels) == 200
    with pytest.raises(InputError, match="has 200 classes, but 20 labels are given"):
        import_checkpoint(source, tmp_path / "p.pt", labels=[f"label {k}" for k in range(20)])


@pytest.mark.parametrize(
    ("name", "widths", "slots"),
    [("gtad", [2048], [16, 16]), ("gtad_feat400", [400], [16, 16]), ("gtad_rm", [512, 128], [32, 4])],
)
def test_gtad(golden: Path, tmp_path: Path, name: str, widths: list[int], slots: list[int]) -> None:
    source = released(golden, name, tmp_path / "g.pth.tar")
    times = {"temporal_scale": 16, "max_duration": 16}
    found = import_checkpoint(source, tmp_path / "g.pt", options=times)
    assert (found.kind, list(found.widths)) == ("gtad", widths)
    assert [found.options[key] for key in ("inner_slots", "context_slots")] == slots
    detector = load_detector(read_checkpoint(tmp_path / "g.pt")).eval()
    assert isinstance(detector, Gtad)
    if name != "gtad_rm":
        return  # the stored outputs of the others are those of narrower networks
    with torch.no_grad():
        maps = detector.maps(torch.from_numpy(recipe_input("in:gtad/rm/features", (2, 640, 16))))
    with np.load(golden / "gtad" / "model.npz", allow_pickle=False) as data:
        for ours, theirs in zip(maps, ("iou_map", "start", "end"), strict=True):
            wanted = torch.from_numpy(data[f"rm/{theirs}"])
            tolerance = 1e-5 * float(wanted.abs().max())
            torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "channels", "layout"),
    [
        ("pytorch_i3d_rgb", 3, "pytorch-i3d"),
        ("pytorch_i3d_flow", 2, "pytorch-i3d"),
        ("video_features_i3d_rgb", 3, "video_features"),
        ("video_features_i3d_flow", 2, "video_features"),
    ],
)
def test_i3d(golden: Path, tmp_path: Path, name: str, channels: int, layout: str) -> None:
    source = released(golden, name, tmp_path / "i3d.pt")
    found = import_checkpoint(source, tmp_path / "out.pt")
    assert found.kind == "i3d"
    assert found.options == {"layout": layout, "width": 1.0, "in_channels": channels}
    config = BackboneConfig("i3d", in_channels=channels)
    ours, theirs = (
        dict(build_backbone(config, path)[0].state_dict()) for path in (tmp_path / "out.pt", source)
    )
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_vggish(golden: Path, tmp_path: Path) -> None:
    source = released(golden, "torchvggish", tmp_path / "vggish.pth")
    found = import_checkpoint(source, tmp_path / "out.pt")
    assert found.kind == "vggish" and found.options == {"width": 1.0}
    build_backbone(BackboneConfig("vggish"), tmp_path / "out.pt")
