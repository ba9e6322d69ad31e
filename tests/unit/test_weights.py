"""Weights: nothing is made up, unpickled or half loaded; random ones are reproducible."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from avfusion.backbones.i3d import I3D
from avfusion.backbones.vggish import VGGish
from avfusion.backbones.weights import (
    BackboneConfig,
    WeightsSpec,
    build_backbone,
    fit_state,
    load_backbone,
    load_state,
    randomise,
    save_state,
)
from avfusion.errors import InputError, MissingWeightsError
from avfusion.files import sha256

SMALL_I3D = BackboneConfig("i3d", width=1 / 16)
SMALL_VGGISH = BackboneConfig("vggish", width=1 / 32)


def state(config: BackboneConfig = SMALL_VGGISH, seed: int = 0) -> dict[str, Tensor]:
    return dict(build_backbone(config, f"random:{seed}")[0].state_dict())


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_missing_weights_say_where_they_come_from() -> None:
    with pytest.raises(MissingWeightsError, match=r"rgb_imagenet\.pt.*flow_imagenet\.pt.*random:SEED") as i3d:
        build_backbone(SMALL_I3D, None)
    with pytest.raises(MissingWeightsError, match=r"'audio'.*vggish_model\.ckpt.*vggish-10086976\.pth"):
        load_backbone("audio", None, SMALL_VGGISH)
    with pytest.raises(MissingWeightsError):
        WeightsSpec.parse("", "i3d")
    assert "\n" not in str(i3d.value)


def test_specs() -> None:
    assert WeightsSpec.parse("random:12", "i3d") == WeightsSpec(seed=12)
    assert WeightsSpec.parse("random:12", "i3d").describe() == "random:12"
    assert WeightsSpec.parse("a/b.pt", "i3d") == WeightsSpec(path=Path("a/b.pt"))
    for bad in ("random:", "random:x", "random:-1", "random:1.5", "random: 1"):
        with pytest.raises(InputError, match="whole number"):
            WeightsSpec.parse(bad, "i3d")
    with pytest.raises(ValueError, match="either"):
        WeightsSpec()


def test_random_weights_are_reproducible_and_draw_from_nobody() -> None:
    before = torch.get_rng_state()
    first, second, other = state(SMALL_I3D), state(SMALL_I3D), state(SMALL_I3D, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["Mixed_3b.b0.conv3d.weight"], other["Mixed_3b.b0.conv3d.weight"])
    short = state(BackboneConfig("i3d", width=1 / 16, endpoint="Mixed_3b"))
    assert all(torch.equal(first[name], short[name]) for name in short)


def test_random_weights_neither_vanish_nor_explode() -> None:
    i3d, _ = build_backbone(BackboneConfig("i3d", width=1 / 8), "random:0")
    assert isinstance(i3d, I3D)
    x = torch.rand(1, 3, 16, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        for endpoint in i3d.endpoints:
            x = i3d.get_submodule(endpoint)(x)
            assert 0.2 < x.square().mean().sqrt() < 10
            assert 0.2 < x.std() < 10
    vggish, _ = build_backbone(BackboneConfig("vggish", width=1 / 8, final_relu=False), "random:0")
    assert 0.5 < vggish(torch.randn(4, 96, 64)).square().mean().sqrt() < 20


def test_the_module_is_ready_to_extract() -> None:
    module, description = build_backbone(SMALL_I3D, "random:3")
    assert description == "random:3"
    assert not module.training
    assert isinstance(module, I3D)
    assert module.logits is None
    flow, _ = load_backbone("flow", "random:3", SMALL_I3D)
    assert isinstance(flow, I3D)
    assert flow.extract_features(torch.zeros(1, 2, 8, 32, 32)).shape == (1, 64)


def test_options_reach_the_network() -> None:
    for config, eps, padding in [
        (BackboneConfig("i3d", width=1 / 16), 1e-3, "same"),
        (BackboneConfig("i3d", width=1 / 16, layout="video_features"), 1e-5, "fixed"),
        (BackboneConfig("i3d", width=1 / 16, layout="video_features", eps=0.5), 0.5, "fixed"),
    ]:
        module = config.build()
        assert isinstance(module, I3D)
        unit = module.get_submodule("Mixed_5c.b0")
        assert (unit.bn.eps, unit.padding) == (eps, padding)
    with_relu, without = (
        SMALL_VGGISH.build(),
        BackboneConfig("vggish", width=1 / 32, final_relu=False).build(),
    )
    assert isinstance(with_relu, VGGish)
    assert isinstance(without, VGGish)
    assert (len(with_relu.embeddings), len(without.embeddings)) == (6, 5)
    assert str(SMALL_I3D) == "i3d (width 0.0625, Mixed_5c, as pytorch-i3d)"
    assert str(SMALL_VGGISH) == "vggish (width 0.03125, with final ReLU)"


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (BackboneConfig("resnet"), "backbone"),
        (BackboneConfig("i3d", endpoint="Mixed_6a"), "endpoint"),
        (BackboneConfig("i3d", layout="tensorflow"), "layout"),
    ],
)
def test_unknown_options_are_named(config: BackboneConfig, field: str) -> None:
    with pytest.raises(InputError, match=field):
        build_backbone(config, "random:0")


def test_files_of_every_form_give_the_same(tmp_path: Path) -> None:
    expected = state()
    np.savez(tmp_path / "arrays.npz", **{name: value.numpy() for name, value in expected.items()})
    save_state(tmp_path / "ours.pt", expected)
    files = [
        tmp_path / "arrays.npz",
        tmp_path / "ours.pt",
        saved(tmp_path / "plain.pt", expected),
        saved(tmp_path / "wrapped.pth", {"epoch": 3, "state_dict": expected}),
        saved(tmp_path / "parallel.pth", {f"module.{name}": value for name, value in expected.items()}),
    ]
    for path in files:
        module, description = build_backbone(SMALL_VGGISH, str(path))
        assert description == f"sha256:{sha256(path)}"
        loaded = module.state_dict()
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected), path


def test_the_other_layout_and_older_files_fit(tmp_path: Path) -> None:
    expected = state(SMALL_I3D)
    theirs = {}
    for name, value in expected.items():
        if name.endswith("num_batches_tracked"):
            continue
        name = re.sub(r"^(Conv3d|Mixed)", lambda part: part[0].lower(), name).replace(".bn.", ".batch3d.")
        name = re.sub(r"\.b([12])a\.", r".branch_\1.0.", re.sub(r"\.b([123])b\.", r".branch_\1.1.", name))
        theirs[name.replace(".b0.", ".branch_0.")] = value
    theirs["conv3d_0c_1x1.conv3d.weight"] = torch.zeros(400, 64, 1, 1, 1)
    module, _ = build_backbone(SMALL_I3D, saved(tmp_path / "theirs.pt", theirs))
    loaded = module.state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_a_whole_file_fits_a_tapped_network(tmp_path: Path) -> None:
    path = saved(tmp_path / "whole.pt", state(SMALL_I3D))
    module, _ = build_backbone(BackboneConfig("i3d", width=1 / 16, endpoint="Mixed_3c"), path)
    assert isinstance(module, I3D)
    assert module.endpoints[-1] == "Mixed_3c"


def test_both_shapes_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "wide.pt", state(BackboneConfig("vggish", width=1 / 16)))
    with pytest.raises(InputError, match=r"wide\.pt: features\.0\.weight: .*\(4, 1, 3, 3\).*\(2, 1, 3, 3\)"):
        build_backbone(SMALL_VGGISH, path)
    path = saved(tmp_path / "rgb.pt", state(SMALL_I3D))
    with pytest.raises(InputError, match=r"\(4, 3, 7, 7, 7\).*\(4, 2, 7, 7, 7\)"):
        load_backbone("flow", path, SMALL_I3D)


def test_missing_and_left_over_names_are_told(tmp_path: Path) -> None:
    entries = state()
    del entries["features.3.bias"]
    entries["extra.weight"] = torch.zeros(1)
    with pytest.raises(InputError, match=r"1 missing \(features\.3\.bias\); 1 left over \(extra\.weight\)"):
        build_backbone(SMALL_VGGISH, saved(tmp_path / "odd.pt", entries))
    with pytest.raises(InputError, match=r"\d+ missing .*, \.\.\.\); \d+ left over"):
        build_backbone(SMALL_I3D, saved(tmp_path / "vggish.pt", state()))
    module = SMALL_VGGISH.build()
    untouched = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(InputError):
        fit_state(module, entries, "somewhere")
    assert all(torch.equal(value, untouched[name]) for name, value in module.state_dict().items())


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    entries = state()
    entries["features.3.bias"] = torch.full((4,), torch.nan)
    with pytest.raises(InputError, match=r"features\.3\.bias: holds NaN"):
        build_backbone(SMALL_VGGISH, saved(tmp_path / "nan.pt", entries))


class Harm:
    """An object whose unpickling would leave a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_bad_files_are_named_and_nothing_is_executed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"harm\.pt: weights: .*more than tensors"):
        load_state(saved(tmp_path / "harm.pt", {"a": Harm(tmp_path / "trace")}))
    assert not (tmp_path / "trace").exists()
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.npz").write_text("hello")
    whole = saved(tmp_path / "whole.pt", state()).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "objects.npz", a=np.array([None], dtype=object))
    for name in ("none.pt", "none.npz", "text.pt", "empty.pt", "text.npz", "cut.pt", "objects.npz"):
        with pytest.raises(InputError, match=re.escape(name)) as error:
            build_backbone(SMALL_VGGISH, tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="state dict"):
        load_state(saved(tmp_path / "list.pt", [torch.zeros(1)]))
    with pytest.raises(InputError, match=r"epoch: is a int, not a tensor"):
        load_state(saved(tmp_path / "epoch.pt", {"epoch": 1}))
    with pytest.raises(InputError, match="twice"):
        load_state(saved(tmp_path / "twice.pt", {"a": torch.zeros(1), "module.a": torch.zeros(1)}))


def test_saved_states_have_the_same_bytes_under_any_name(tmp_path: Path) -> None:
    save_state(tmp_path / "a.pt", state())
    save_state(tmp_path / "another_name.pt", state())
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another_name.pt").read_bytes()


def test_randomise_makes_batch_norms_the_identity() -> None:
    model = I3D(width=1 / 16)
    randomise(model, 0)
    values = model.state_dict()
    assert values["Mixed_3b.b0.bn.weight"].eq(1).all()
    assert values["Mixed_3b.b0.bn.running_var"].eq(1).all()
    assert values["Mixed_3b.b0.bn.bias"].eq(0).all()
    assert values["Mixed_3b.b0.bn.running_mean"].eq(0).all()
    assert values["logits.conv3d.bias"].eq(0).all()
