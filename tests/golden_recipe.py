"""The recipe by which the golden data makes network weights and large inputs (golden/README.md).

>>> recipe_input("in:i3d/rgb/a", (1, 3, 16, 224, 224)).dtype
dtype('float32')
"""

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEED = 1407
Shape = Sequence[int]


def recipe_input(name: str, shape: Shape, seed: int = SEED) -> NDArray[np.float32]:
    """The standard normal float32 array of that name (``in:...``), in C order."""
    key = zlib.crc32(f"{seed}:{name}".encode()) & 0x7FFFFFFF
    return np.random.RandomState(key).standard_normal(tuple(shape)).astype(np.float32)


def recipe_weight(name: str, shape: Shape, seed: int = SEED) -> NDArray[Any]:
    """The value of one state-dict entry; `name` stands without a ``module.`` prefix."""
    last = name.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return np.zeros(tuple(shape), dtype=np.int64)
    x = recipe_input(name, shape, seed)
    if last == "running_mean":
        return np.float32(0.1) * x
    if last == "running_var":
        return np.float32(1) + np.float32(0.1) * np.abs(x)
    if len(shape) >= 2:
        return x * np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
    if last == "weight":
        return np.float32(1) + np.float32(0.1) * x
    return np.float32(0.01) * x


def recipe_weights(
    names_and_shapes: Mapping[str, Shape] | Iterable[tuple[str, Shape]], seed: int = SEED
) -> dict[str, NDArray[Any]]:
    """Weights for every (name, shape); for a network: ``(n, v.shape) for n, v in state_dict().items()``."""
    pairs = names_and_shapes.items() if isinstance(names_and_shapes, Mapping) else names_and_shapes
    return {name: recipe_weight(name, tuple(shape), seed) for name, shape in pairs}


def load_recipe(module: Any, seed: int = SEED) -> Any:
    """Fill a torch module with the recipe's weights, by its state-dict names; returns the module."""
    import torch

    weights = recipe_weights(((name, value.shape) for name, value in module.state_dict().items()), seed)
    module.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in weights.items()})
    return module


def layout(golden: Path, name: str) -> dict[str, tuple[int, ...]]:
    """Names (without ``module.``) and shapes of the state dict in ``golden/layouts/<name>.json``."""
    content = json.loads((golden / "layouts" / f"{name}.json").read_text())
    return {entry["name"].removeprefix("module."): tuple(entry["shape"]) for entry in content["entries"]}
