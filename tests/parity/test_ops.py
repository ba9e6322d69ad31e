"""avfusion.ops against what the published CUDA sources compute (golden/ops; tolerances in its index.json)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from avfusion.ops import msta_conv1d, nms1d, roi_max_pool1d
from avfusion.ops.nms import reference_nms1d
from avfusion.ops.roi_pool import reference_roi_max_pool1d, reference_roi_max_pool1d_backward

Arrays = dict[str, torch.Tensor]
ROI_POOL = [
    *("muses", "batched", "past_end", "negative_start", "one_frame", "malformed", "ties", "constant"),
    *("odd_bins", "coarse_scale", "single_step", "narrow", "huge_values", "nan_inf"),
]
TA_LAYER = ["1x3_w3", "1x3_w3_short", "1x3_w3_T1", "3x3_w3", "3x3_w6", "3x3_w9", "3x3_w9_short", "3x3_w9_T1"]
MSTA_LAYER = ["add_exact", "add", "add_short", "add_tiny"]


def case(golden: Path, name: str) -> tuple[dict[str, Any], Arrays, Arrays]:
    """Description, inputs and outputs of one case of golden/ops."""
    index = {
        entry["name"]: entry for entry in json.loads((golden / "ops" / "index.json").read_text())["cases"]
    }
    with np.load(golden / "ops" / index[name]["file"], allow_pickle=False) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    inputs = {key[3:]: value for key, value in arrays.items() if key.startswith("in.")}
    return index[name], inputs, {key[4:]: value for key, value in arrays.items() if key.startswith("out.")}


def close(got: torch.Tensor, wanted: torch.Tensor, tolerance: dict[str, float]) -> None:
    torch.testing.assert_close(
        got, wanted, rtol=tolerance["rtol"], atol=tolerance["atol"], equal_nan=True, check_dtype=False
    )


def test_no_case_is_forgotten(golden: Path) -> None:
    names = {entry["name"] for entry in json.loads((golden / "ops" / "index.json").read_text())["cases"]}
    assert {f"roi_pool_{name}" for name in ROI_POOL} == {
        name for name in names if name.startswith("roi_pool")
    }
    assert {f"ta_layer_{name}" for name in TA_LAYER} == {
        name for name in names if name.startswith("ta_layer")
    }


@pytest.mark.parametrize("name", ROI_POOL)
def test_roi_max_pool1d(golden: Path, name: str) -> None:
    entry, inputs, outputs = case(golden, f"roi_pool_{name}")
    size, scale = entry["args"]["out_size"], entry["args"]["spatial_scale"]
    features = inputs["features"].requires_grad_()
    pooled = roi_max_pool1d(features, inputs["rois"], size, scale)
    pooled.backward(inputs["grad_output"])
    close(pooled.detach(), outputs["output"], entry["tolerance"])
    close(features.grad, outputs["grad_features"], entry["tolerance"])
    argmax = torch.ops.avfusion.roi_max_pool1d(features, inputs["rois"], size, scale)[1]
    assert torch.equal(argmax.int(), outputs["argmax"])


@pytest.mark.parametrize("name", ROI_POOL)
def test_reference_roi_max_pool1d(golden: Path, name: str) -> None:
    entry, inputs, outputs = case(golden, f"roi_pool_{name}")
    size, scale = entry["args"]["out_size"], entry["args"]["spatial_scale"]
    features, rois = inputs["features"], inputs["rois"]
    pooled, argmax = reference_roi_max_pool1d(features, rois, size, scale)
    close(pooled, outputs["output"], entry["tolerance"])
    assert torch.equal(argmax.int(), outputs["argmax"])
    gradient = reference_roi_max_pool1d_backward(
        inputs["grad_output"], argmax, rois[:, 0].long(), features.shape[0], features.shape[2]
    )
    close(gradient, outputs["grad_features"], entry["tolerance"])


def check_convolution(
    entry: dict[str, Any], inputs: Arrays, outputs: Arrays, prefixes: list[str], **kernels: Any
) -> None:
    """Output and all gradients of msta_conv1d on the branches named by `prefixes`."""
    features = inputs["input"].requires_grad_()
    weights = [inputs[f"param.{prefix}weight"].requires_grad_() for prefix in prefixes]
    biases = [inputs[f"param.{prefix}bias"].requires_grad_() for prefix in prefixes]
    output = msta_conv1d(features, weights, biases, **kernels)
    output.backward(inputs["grad_output"])
    close(output.detach(), outputs["output"], entry["tolerance"])
    close(features.grad, outputs["grad_input"], entry["tolerance"])
    for prefix, weight, bias in zip(prefixes, weights, biases, strict=True):
        close(weight.grad, outputs[f"grad.{prefix}weight"], entry["tolerance"])
        close(bias.grad, outputs[f"grad.{prefix}bias"], entry["tolerance"])


@pytest.mark.parametrize("name", TA_LAYER)
def test_one_branch(golden: Path, name: str) -> None:
    entry, inputs, outputs = case(golden, f"ta_layer_{name}")
    arguments = entry["args"]
    kernels = {"kernel_sizes": [tuple(arguments["kernel_size_2d"])], "units": [arguments["unit_size"]]}
    check_convolution(entry, inputs, outputs, [""], **kernels)


@pytest.mark.parametrize("name", MSTA_LAYER)
def test_merged_branches(golden: Path, name: str) -> None:
    entry, inputs, outputs = case(golden, f"msta_layer_{name}")
    arguments = entry["args"]
    sizes = [tuple(size) for size in arguments["kernel_sizes"]]
    prefixes = [f"branches.{m}." for m in range(len(sizes))]
    check_convolution(entry, inputs, outputs, prefixes, kernel_sizes=sizes, units=arguments["unit_sizes"])


def row_indices(rows: NDArray[np.float64], of: NDArray[np.float64]) -> list[int]:
    return [int(np.flatnonzero((of == row).all(1))[0]) for row in rows]


@pytest.mark.parametrize("threshold", ["0.2", "0.4", "0.7"])
@pytest.mark.parametrize("number", range(4))
def test_nms1d(golden: Path, number: int, threshold: str) -> None:
    with np.load(golden / "postproc" / "eval_muses.npz", allow_pickle=False) as file:
        rows, kept = file[f"nms/{number}/in"], file[f"nms/{number}/out{threshold}"]
    segments, scores = torch.from_numpy(rows[:, :2]), torch.from_numpy(rows[:, 2])
    wanted = row_indices(kept, rows)
    assert nms1d(segments, scores, float(threshold)).tolist() == wanted
    groups = torch.zeros(len(rows), dtype=torch.int64)
    assert reference_nms1d(segments, scores, groups, float(threshold)).tolist() == wanted
