"""VGGish from TensorFlow's checkpoint: axes of the arrays, and the network in TensorFlow itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avfusion.backbones import convert
from avfusion.backbones.convert import CONVOLUTIONS, LINEAR, convert_vggish, torch_state
from avfusion.backbones.published import local_path
from avfusion.backbones.vggish import VGGish
from avfusion.backbones.weights import BackboneConfig, build_backbone
from avfusion.cli.main import main
from avfusion.errors import InputError

CHANNELS = (1, 64, 128, 256, 256, 512, 512)
SIZES = (12288, 4096, 4096, 128)


def variables(seed: int = 0) -> dict[str, np.ndarray]:
    """Random variables with the names and shapes of vggish_model.ckpt."""
    random = np.random.RandomState(seed)

    def pair(scope: str, *shape: int) -> dict[str, np.ndarray]:
        weights = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
        biases = 0.1 * random.standard_normal(shape[-1])
        return {
            f"vggish/{scope}/weights": weights.astype(np.float32),
            f"vggish/{scope}/biases": biases.astype(np.float32),
        }

    result: dict[str, np.ndarray] = {}
    for index, scope in enumerate(CONVOLUTIONS):
        result |= pair(scope, 3, 3, CHANNELS[index], CHANNELS[index + 1])
    for index, scope in enumerate(LINEAR):
        result |= pair(scope, SIZES[index], SIZES[index + 1])
    return result


def test_axes() -> None:
    theirs = variables()
    ours = torch_state(theirs, "x.ckpt")
    assert {name: tuple(value.shape) for name, value in ours.items()} == {
        name: tuple(value.shape) for name, value in VGGish().state_dict().items()
    }
    kernel = theirs["vggish/conv3/conv3_2/weights"]
    assert float(ours["features.8.weight"][5, 7, 1, 2]) == kernel[1, 2, 7, 5]
    assert float(ours["embeddings.4.weight"][3, 9]) == theirs["vggish/fc2/weights"][9, 3]
    assert float(ours["embeddings.0.bias"][3]) == theirs["vggish/fc1/fc1_1/biases"][3]


def test_another_checkpoint() -> None:
    theirs = variables()
    del theirs["vggish/fc2/biases"]
    with pytest.raises(InputError, match=r"x\.ckpt: vggish/fc2/biases: is not in the checkpoint"):
        torch_state(theirs, "x.ckpt")


def test_without_tensorflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert main(["weights", "--convert", str(tmp_path / "vggish_model.ckpt")]) == 1
    assert "TensorFlow is needed to read it: use envs/tensorflow.yaml" in capsys.readouterr().err


def test_the_command_writes_the_file_that_the_workflow_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "read_checkpoint", lambda path: variables())
    assert main(["weights", "--convert", str(tmp_path / "vggish_model.ckpt")]) == 0
    path = Path(local_path("published:vggish_tensorflow", tmp_path))
    assert list(tmp_path.iterdir()) == [path]
    build_backbone(BackboneConfig("vggish"), path)


@pytest.mark.slow
def test_tensorflow_computes_the_same(tmp_path: Path) -> None:
    """The network as TensorFlow builds it, with random values, from a checkpoint that it has written."""
    tf = pytest.importorskip("tensorflow", reason="needs TensorFlow (envs/tensorflow.yaml)")
    theirs = variables(7)
    checkpoint = str(tmp_path / "vggish_model.ckpt")
    examples = np.random.RandomState(1).standard_normal((3, 96, 64)).astype(np.float32) - 2
    expected = _run_in_tensorflow(tf, theirs, checkpoint, examples)
    convert_vggish(checkpoint, tmp_path / "vggish.pt")
    for relu in (True, False):
        network, _ = build_backbone(BackboneConfig("vggish", final_relu=relu), tmp_path / "vggish.pt")
        with torch.inference_mode():
            found = network(torch.from_numpy(examples)).numpy()
        wanted = np.maximum(expected, 0) if relu else expected
        assert np.abs(found - wanted).max() <= 2e-5 * np.abs(wanted).max()
        assert (wanted != 0).mean() > 0.3
    with pytest.raises(InputError, match="no such file"):
        convert_vggish(tmp_path / "nothing.ckpt", tmp_path / "x.pt")
    (tmp_path / "text.ckpt").write_text("nothing")
    with pytest.raises(InputError, match="cannot be read as a TensorFlow checkpoint"):
        convert_vggish(tmp_path / "text.ckpt", tmp_path / "x.pt")


def _run_in_tensorflow(
    tf: Any, values: dict[str, np.ndarray], checkpoint: str, examples: np.ndarray
) -> np.ndarray:
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        kept = {name: v1.get_variable(name, initializer=value) for name, value in values.items()}
        x = tf.constant(examples[..., None])
        for scope in CONVOLUTIONS:
            x = tf.nn.conv2d(x, kept[f"vggish/{scope}/weights"], strides=1, padding="SAME")
            x = tf.nn.relu(x + kept[f"vggish/{scope}/biases"])
            if scope in ("conv1", "conv2", "conv3/conv3_2", "conv4/conv4_2"):
                x = tf.nn.max_pool2d(x, 2, 2, padding="SAME")
        x = tf.reshape(x, (len(examples), -1))
        for scope in LINEAR:
            x = x @ kept[f"vggish/{scope}/weights"] + kept[f"vggish/{scope}/biases"]
            x = x if scope == "fc2" else tf.nn.relu(x)
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver(write_version=2).save(session, checkpoint, write_meta_graph=False)
            return np.asarray(session.run(x))
