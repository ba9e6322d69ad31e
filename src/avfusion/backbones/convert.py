"""VGGish from the TensorFlow checkpoint that AudioSet released to a state dict of ours.

TensorFlow is imported here and nowhere else; it has an environment of its own (envs/tensorflow.yaml).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avfusion.backbones.vggish import VGGish
from avfusion.backbones.weights import fit_state, save_state
from avfusion.errors import InputError

# TensorFlow's scope -> our layer
CONVOLUTIONS = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3/conv3_1": "features.6",
    "conv3/conv3_2": "features.8",
    "conv4/conv4_1": "features.11",
    "conv4/conv4_2": "features.13",
}
LINEAR = {"fc1/fc1_1": "embeddings.0", "fc1/fc1_2": "embeddings.2", "fc2": "embeddings.4"}


def convert_vggish(checkpoint: str | Path, output: str | Path) -> None:
    """Read ``vggish_model.ckpt`` and write a state dict that `build_backbone` loads.

    Raises:
        InputError: TensorFlow is not there, or the file is no checkpoint of VGGish.
    """
    state = torch_state(read_checkpoint(checkpoint), checkpoint)
    fit_state(VGGish(), state, checkpoint)
    save_state(output, state)


def read_checkpoint(checkpoint: str | Path) -> dict[str, NDArray[Any]]:
    """All variables of a TensorFlow checkpoint by name.

    Raises:
        InputError: TensorFlow is not there, or cannot read the file.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        problem = "TensorFlow is needed to read it: use envs/tensorflow.yaml, or take torchvggish's weights"
        raise InputError(checkpoint, problem, "weights") from error
    if not list(Path(checkpoint).parent.glob(Path(checkpoint).name + "*")):
        raise InputError(checkpoint, "no such file", "weights")
    try:
        reader = tf.train.load_checkpoint(str(checkpoint))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        problem = f"cannot be read as a TensorFlow checkpoint ({str(error).splitlines()[0]})"
        raise InputError(checkpoint, problem, "weights") from error


def torch_state(variables: Mapping[str, NDArray[Any]], source: str | Path) -> dict[str, Tensor]:
    """Our state dict from TensorFlow's variables, ``vggish/<scope>/weights`` and ``.../biases``.

    Kernels (height, width, in, out) become (out, in, height, width), matrices (in, out) become (out, in). The
    first matrix counts its inputs channels last in both.

    Args:
        variables: arrays by name.
        source: the file, for messages.

    Raises:
        InputError: a variable is missing.
    """
    axes = {**dict.fromkeys(CONVOLUTIONS, (3, 2, 0, 1)), **dict.fromkeys(LINEAR, (1, 0))}
    state = {}
    for scope, layer in {**CONVOLUTIONS, **LINEAR}.items():
        for theirs, ours, order in (("weights", "weight", axes[scope]), ("biases", "bias", (0,))):
            name = f"vggish/{scope}/{theirs}"
            if name not in variables:
                problem = "is not in the checkpoint: is it AudioSet's vggish_model.ckpt?"
                raise InputError(source, problem, name)
            value = np.ascontiguousarray(np.transpose(variables[name], order), dtype=np.float32)
            state[f"{layer}.{ours}"] = torch.from_numpy(value)
    return state
