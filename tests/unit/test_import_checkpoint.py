"""Released checkpoints: what is read, what is recognised, what is refused and how it is told."""

import io
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from avfusion.backbones.vggish import PcaParameters
from avfusion.backbones.weights import BackboneConfig, build_backbone
from avfusion.cli.main import main
from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.detectors import build_detector
from avfusion.engine.checkpoint import read_checkpoint
from avfusion.engine.import_checkpoint import import_checkpoint
from avfusion.engine.predict import load_detector, predict, propose
from avfusion.engine.released import read_released
from avfusion.errors import InputError

LABELS = ["x", "y", "z"]
REG_STATS = np.array([[0.1, -0.2], [0.3, 0.4]])
SMALL = {"backbone_dims": [6, 8], "hidden": 7, "roi_size": 2}


def muses(widths: tuple[int, ...] = (5,), **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(build_detector("muses", {**SMALL, **options}, widths, 3).state_dict())


def wrapped(state: dict[str, Tensor], **entries: Any) -> dict[str, Any]:
    """As MUSES and P-GCN save."""
    given = {"epoch": 12, "state_dict": OrderedDict(state), "best_loss": np.float64(1.25)}
    return {**given, "reg_stats": REG_STATS, **entries}


def saved(path: Path, content: Any, old: bool = False) -> Path:
    """A file of torch; `old`: in the format of torch < 1.6, with the names of numpy < 2."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not old)
    data = buffer.getvalue()
    if old:
        data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        assert b"numpy._core" not in data
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("old", [False, True])
def test_a_wrapped_file_with_numpy_values_is_read(tmp_path: Path, old: bool) -> None:
    state = {f"module.{name}": value for name, value in muses().items()}
    released = read_released(saved(tmp_path / "r.pth.tar", wrapped(state), old))
    assert list(released.state) == list(muses())
    assert released.entries["epoch"] == 12 and released.entries["best_loss"] == 1.25
    np.testing.assert_array_equal(released.entries["reg_stats"], REG_STATS)


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("old", [False, True])
def test_nothing_is_executed(tmp_path: Path, old: bool) -> None:
    path = saved(tmp_path / "bad.pth", wrapped(muses(), trap=Harmful(tmp_path / "made")), old)
    with pytest.raises(
        InputError, match=r"bad\.pth: holds objects other than tensors \(posix\.mkdir\)"
    ) as caught:
        import_checkpoint(path, tmp_path / "out.pt")
    assert "\n" not in str(caught.value) and "torch.save" in str(caught.value)
    assert not (tmp_path / "made").exists() and not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no file of torch", "is no file of torch|cannot be read as a file of torch"),
        (b"", "cannot be read as a file of torch|is no file of torch"),
        (pickle.dumps(3, protocol=2), "is no file of torch|cannot be read|holds no state dict"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_released(tmp_path / "file")
    with pytest.raises(InputError, match="none: cannot be read"):
        read_released(tmp_path / "none")


def test_content_without_a_state_dict(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no state dict"):
        read_released(saved(tmp_path / "list", [torch.zeros(1)]))
    with pytest.raises(InputError, match="best: is a int, not a tensor"):
        read_released(saved(tmp_path / "number", {"weight": torch.zeros(1), "best": 3}))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_muses_is_recognised_and_predicts(tmp_path: Path, prefix: str) -> None:
    state = muses()
    path = saved(tmp_path / "m.pth.tar", wrapped({prefix + name: value for name, value in state.items()}))
    found = import_checkpoint(path, tmp_path / "m.pt", labels=LABELS)
    assert (found.kind, found.labels, found.widths) == ("muses", LABELS, [5])
    assert found.options == {**SMALL, "attention": 0}
    checkpoint = read_checkpoint(tmp_path / "m.pt")
    assert all(torch.equal(checkpoint.state_dict[name], value) for name, value in state.items())
    np.testing.assert_array_equal(checkpoint.statistics["reg_stats"], REG_STATS)
    assert checkpoint.config["imported"]["file"] == "m.pth.tar"
    features = VideoFeatures(np.ones((20, 5), dtype=np.float32), TimeAxis(0.5, 1.0, 1.0))
    scores = predict(checkpoint, {"v": features}, {"v": np.array([[2.0, 9.0]])}, "cpu")
    assert scores["v"].activity.shape == (1, 4)


def test_attention_is_recognised(tmp_path: Path) -> None:
    path = saved(tmp_path / "rm.pth.tar", wrapped(muses((256, 128), attention=1)))
    found = import_checkpoint(path, tmp_path / "rm.pt", labels=LABELS)
    assert found.options["attention"] == 1 and found.widths == [256, 128]
    # Zeros fill up the sound, so that any width up to the picture's fits.
    assert import_checkpoint(path, tmp_path / "rm.pt", labels=LABELS, widths=[256, 64]).widths == [256, 64]
    with pytest.raises(InputError, match=r"widths: takes a picture of 256 channels and sound, not 128\+128"):
        import_checkpoint(path, tmp_path / "rm.pt", labels=LABELS, widths=[128, 128])


def test_widths_of_features_side_by_side(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pth.tar", wrapped(muses((3, 2))))
    assert import_checkpoint(path, tmp_path / "m.pt", labels=LABELS).widths == [5]
    assert import_checkpoint(path, tmp_path / "m.pt", labels=LABELS, widths=[3, 2]).widths == [3, 2]
    with pytest.raises(InputError, match=r"widths: takes 5 channels in all, not 3\+3"):
        import_checkpoint(path, tmp_path / "m.pt", labels=LABELS, widths=[3, 3])


def test_options_that_shapes_do_not_tell(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pth.tar", wrapped(muses()))
    import_checkpoint(path, tmp_path / "m.pt", labels=LABELS, options={"dropout": 0.25})
    assert load_detector(read_checkpoint(tmp_path / "m.pt")).options.dropout == 0.25
    with pytest.raises(InputError, match="unknown option 'drop'"):
        import_checkpoint(path, tmp_path / "m.pt", labels=LABELS, options={"drop": 0.25})


def test_pgcn_is_recognised_and_predicts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for widths, options in (((5,), {}), ((256, 128), {"attention": 1})):
        state = build_detector("pgcn", {"hidden": 7, **options}, widths, 3).state_dict()
        content = wrapped({f"module.{name}": value for name, value in state.items()})
        found = import_checkpoint(
            saved(tmp_path / "p.pth", content, old=True), tmp_path / "p.pt", labels=LABELS
        )
        assert (found.kind, list(found.widths)) == ("pgcn", list(widths))
        assert found.options == {"hidden": 7, "attention": len(options)}
        features = VideoFeatures(np.ones((20, sum(widths)), np.float32), TimeAxis(0.5, 1.0, 1.0), widths)
        segments = np.stack([np.arange(10.0), np.arange(10.0) + 5], axis=1)
        scores = predict(tmp_path / "p.pt", {"v": features}, {"v": segments}, "cpu")["v"]
        assert scores.completeness.shape == (10, 3)


GTAD = {"hidden_1d": 16, "hidden_2d": 6, "hidden_3d": 10, "groups": 2}
TIMES = {"temporal_scale": 16, "max_duration": 8}


@pytest.mark.parametrize(
    ("widths", "slots"),
    [
        ((8,), {"style": 1, "inner_slots": 16, "context_slots": 16}),
        ((8,), {"style": 0, "inner_slots": 16}),
        ((128, 128), {"style": 1, "inner_slots": 32, "context_slots": 4, "attention": 1}),
    ],
)
def test_gtad_is_recognised_and_proposes(
    tmp_path: Path, widths: tuple[int, ...], slots: dict[str, int]
) -> None:
    torch.manual_seed(0)
    state = build_detector("gtad", {**GTAD, **slots}, widths, 3).state_dict()
    content = {"epoch": 5, "state_dict": {f"module.{name}": value for name, value in state.items()}}
    found = import_checkpoint(
        saved(tmp_path / "g.pth.tar", content), tmp_path / "g.pt", labels=LABELS, options=TIMES
    )
    assert (found.kind, list(found.widths)) == ("gtad", list(widths))
    assert found.options == {"attention": 0, **GTAD, **slots}
    features = VideoFeatures(np.ones((20, sum(widths)), np.float32), TimeAxis(0.5, 1.0, 1.0), widths)
    assert import_checkpoint(tmp_path / "g.pth.tar", tmp_path / "g.pt", options=TIMES).labels == ["action"]
    assert len(propose(tmp_path / "g.pt", {"v": features}, ["v"], "cpu")["v"])


def changed(name: str, value: Tensor | None) -> dict[str, Tensor]:
    state = muses()
    if value is None:
        del state[name]
    else:
        state[name] = value
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            changed("roi_head.regressor_fc.bias", None),
            r"does not fit muses: 1 missing \(roi_head.regressor_fc",
        ),
        (changed("extra.weight", torch.zeros(2)), r"does not fit muses: 1 left over \(extra.weight\)"),
        (
            {"old." + k if "Comp" in k else k: v for k, v in muses().items()},
            r"2 missing \(roi_head.Comp_MLP.0.bias, roi_head.Comp_MLP.0.weight\); 2 left over \(old.roi",
        ),
        (
            changed("roi_head.completeness_fc.weight", torch.zeros(4, 7)),
            r"roi_head.completeness_fc.weight: has shape \(4, 7\), but muses wants \(3, 7\)",
        ),
        (
            changed("roi_head.activity_fc.weight", torch.zeros(4)),
            r"roi_head.activity_fc.weight: has shape \(4,\), but muses wants 2 dimensions",
        ),
        (
            changed("backbone.layers.2.branches.0.weight", None),
            "'backbone.layers.2.branches.0.weight' is missing",
        ),
        (changed("roi_head.activity_fc.bias", torch.full((4,), torch.nan)), "bias: holds NaN or infinite"),
        ({"layer1.0.weight": torch.zeros(1)}, r"is none of muses.*: its names begin with layer1\.0\.weight"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, state: dict[str, Tensor], message: str) -> None:
    path = saved(tmp_path / "m.pth.tar", wrapped(state))
    with pytest.raises(InputError, match=message) as caught:
        import_checkpoint(path, tmp_path / "m.pt", labels=LABELS)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    assert not (tmp_path / "m.pt").exists()


def test_another_number_of_classes(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pth.tar", wrapped(muses()))
    with pytest.raises(InputError, match="has 3 classes, but 2 labels are given"):
        import_checkpoint(path, tmp_path / "m.pt", labels=["x", "y"])
    with pytest.raises(InputError, match="labels: must be names, each of them once"):
        import_checkpoint(path, tmp_path / "m.pt", labels=["x", "y", "x"])
    assert import_checkpoint(path, tmp_path / "m.pt").labels == ["class_1", "class_2", "class_3"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "reg_stats: the file holds none: give the means and deviations"),
        (np.ones(3), "reg_stats: must be 4 numbers"),
        (np.array([[0.0, 0.0], [0.0, 1.0]]), "reg_stats: must be finite and deviations above 0"),
    ],
)
def test_statistics_of_the_regression(tmp_path: Path, value: Any, message: str) -> None:
    content = wrapped(muses(), reg_stats=value) if value is not None else muses()
    path = saved(tmp_path / "m.pth.tar", content)
    with pytest.raises(InputError, match=message):
        import_checkpoint(path, tmp_path / "m.pt", labels=LABELS)
    import_checkpoint(path, tmp_path / "m.pt", labels=LABELS, reg_stats=[0.1, 0.2, 0.3, 0.4])
    wanted = torch.tensor([[0.1, 0.2], [0.3, 0.4]], dtype=torch.float64)
    assert torch.equal(read_checkpoint(tmp_path / "m.pt").statistics["reg_stats"], wanted)


def test_a_kind_that_it_is_not(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pth.tar", wrapped(muses()))
    with pytest.raises(InputError, match=r"does not fit i3d: 'Conv3d_1a_7x7\.conv3d\.weight' is missing"):
        import_checkpoint(path, tmp_path / "m.pt", kind="i3d")
    with pytest.raises(InputError, match="kind: 'musse' is no kind; did you mean 'muses'"):
        import_checkpoint(path, tmp_path / "m.pt", kind="musse")


def video_features_name(name: str) -> str:
    """The name that video_features gives a parameter of pytorch-i3d."""
    name = name.replace(".bn.", ".batch3d.").replace("Conv3d", "conv3d", 1).replace("Mixed", "mixed")
    units = {"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1", "b2a": "branch_2.0"}
    units |= {"b2b": "branch_2.1", "b3b": "branch_3.1"}
    return re.sub(r"\.(b\d[ab]?)\.", lambda part: f".{units[part[1]]}.", name)


@pytest.mark.parametrize("layout", ["pytorch-i3d", "video_features"])
def test_i3d_of_both_layouts(tmp_path: Path, layout: str) -> None:
    config = BackboneConfig("i3d", in_channels=2, width=1 / 16)
    state = dict(build_backbone(config, "random:0")[0].state_dict())
    theirs = {
        (name if layout == "pytorch-i3d" else video_features_name(name)): v for name, v in state.items()
    }
    assert len(theirs) == len(state)
    logits = "logits.conv3d.weight" if layout == "pytorch-i3d" else "conv3d_0c_1x1.conv3d.weight"
    theirs[logits] = torch.zeros(400, 64, 1, 1, 1)
    for name in [name for name in theirs if name.endswith("num_batches_tracked")]:
        del theirs[name]  # as in old files
    found = import_checkpoint(saved(tmp_path / "i3d.pt", theirs), tmp_path / "out.pt")
    assert found.kind == "i3d" and found.options == {"layout": layout, "width": 1 / 16, "in_channels": 2}
    module, _ = build_backbone(config, tmp_path / "out.pt")
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    del theirs["Conv3d_1a_7x7.bn.bias" if layout == "pytorch-i3d" else "conv3d_1a_7x7.batch3d.bias"]
    with pytest.raises(InputError, match=r"1 missing \(Conv3d_1a_7x7\.bn\.bias\)"):
        import_checkpoint(saved(tmp_path / "i3d.pt", theirs), tmp_path / "out.pt")


def test_vggish(tmp_path: Path) -> None:
    config = BackboneConfig("vggish", width=1 / 32)
    state = dict(build_backbone(config, "random:0")[0].state_dict())
    theirs = {**state, "pproc.pca_means": torch.zeros(4, 1)}
    found = import_checkpoint(saved(tmp_path / "vggish.pth", theirs), tmp_path / "out.pt")
    assert found.kind == "vggish" and found.options == {"width": 1 / 32}
    module, _ = build_backbone(config, tmp_path / "out.pt")
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_post_processor_of_vggish(tmp_path: Path) -> None:
    rng = np.random.RandomState(0)
    content = {"pca_eigen_vectors": rng.standard_normal((128, 128)), "pca_means": rng.standard_normal(128)}
    assert import_checkpoint(saved(tmp_path / "pca.pth", content), tmp_path / "pca.npz").kind == "vggish_pca"
    parameters = PcaParameters.read(tmp_path / "pca.npz")
    np.testing.assert_array_equal(parameters.eigen_vectors, content["pca_eigen_vectors"])
    np.testing.assert_array_equal(parameters.means, content["pca_means"])
    content["pca_means"] = content["pca_means"][:5]
    with pytest.raises(InputError, match=r"pca_means: has shape \(5,\), but VGGish wants \(128,\)"):
        import_checkpoint(saved(tmp_path / "pca.pth", content), tmp_path / "other.npz")
    assert not (tmp_path / "other.npz").exists()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, labels = saved(tmp_path / "m.pth.tar", wrapped(muses())), tmp_path / "labels.txt"
    labels.write_text("x\ny\n\nz\n")
    out = tmp_path / "m.pt"
    arguments = ["import-checkpoint", str(source), "--out", str(out), "--labels", str(labels)]
    assert main([*arguments, "--set", "dropout=0.5", "--widths", "3,2", "--reg-stats=-1,0,1,2"]) == 0
    assert f"{out}: muses, 3 classes, 3+2 channels, backbone_dims [6, 8]" in capsys.readouterr().out
    checkpoint = read_checkpoint(out)
    assert checkpoint.config["model"]["dropout"] == 0.5 and list(checkpoint.labels) == LABELS
    assert checkpoint.statistics["reg_stats"].tolist() == [[-1, 0], [1, 2]]
    labels.write_text("x\ny\n")
    assert main(arguments) == 1
    assert "avfusion: error:" in (told := capsys.readouterr().err) and "has 3 classes, but 2" in told
    labels.write_text("\n")
    assert main(arguments) == 1
    assert "holds no names" in capsys.readouterr().err
    for wrong in (["--widths", "3,x"], ["--reg-stats", "a"], ["--set", "dropout"]):
        with pytest.raises(SystemExit):
            main([*arguments, *wrong])
