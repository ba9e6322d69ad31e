"""The recipe helper against the check values that the golden data states."""

import hashlib
import json
from pathlib import Path

import numpy as np
from golden_recipe import layout, recipe_input, recipe_weight, recipe_weights


def test_recipe_agrees_with_its_check_values(golden: Path) -> None:
    recipe = json.loads((golden / "recipe.json").read_text())
    assert {check["kind"] for check in recipe["check"]} == {"weight", "input"}
    for check in recipe["check"]:
        make = recipe_weight if check["kind"] == "weight" else recipe_input
        value = make(check["name"], check["shape"], recipe["seed"])
        assert value.shape == tuple(check["shape"])
        np.testing.assert_array_equal(value.ravel()[:4], np.asarray(check["first"], dtype=value.dtype))
        np.testing.assert_allclose(
            value.sum(dtype=np.float64), check["sum"], rtol=1e-9, err_msg=check["name"]
        )
        if "sha256" in check:
            assert hashlib.sha256(value.tobytes()).hexdigest() == check["sha256"]


def test_layouts_can_be_filled(golden: Path) -> None:
    shapes = layout(golden, "torchvggish")
    weights = recipe_weights({name: shape for name, shape in shapes.items() if np.prod(shape) < 1e6})
    assert weights
    assert all(value.shape == shapes[name] for name, value in weights.items())
