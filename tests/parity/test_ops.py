"""avfusion.ops against what the published CUDA sources compute (golden/ops; tolerances in its index.json)."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from avfusion.ops import (
    SoftNms,
    align1d,
    msta_conv1d,
    nms1d,
    project_align1d,
    roi_max_pool1d,
    soft_nms1d,
    vote1d,
)
from avfusion.ops.align import reference_align1d, reference_align1d_backward
from avfusion.ops.nms import reference_nms1d
from avfusion.ops.roi_pool import reference_roi_max_pool1d, reference_roi_max_pool1d_backward
from avfusion.ops.soft_nms import reference_soft_nms1d

Arrays = dict[str, torch.Tensor]
ROI_POOL = [
    *("muses", "batched", "past_end", "negative_start", "one_frame", "malformed", "ties", "constant"),
    *("odd_bins", "coarse_scale", "single_step", "narrow", "huge_values", "nan_inf"),
]
TA_LAYER = ["1x3_w3", "1x3_w3_short", "1x3_w3_T1", "3x3_w3", "3x3_w6", "3x3_w9", "3x3_w9_short", "3x3_w9_T1"]
ALIGN = [
    *("gtad_anchors", "talhmo", "ratio0_real", "ratio1", "ratio2", "ratio4", "edges", "edges_ratio"),
    *("one_step", "two_steps", "single_bin"),
]
GRAPH_ALIGN = {"gtad": (16, 16), "tal-hmo": (32, 4)}  # bins of the snippets and of their neighbours
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
    assert {f"align1d_{name}" for name in ALIGN} == {name for name in names if name.startswith("align1d")}
    assert {f"graph_align_{name}" for name in GRAPH_ALIGN} == {
        name for name in names if name.startswith("graph_align")
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
        inputs["grad_output"], argmax, rois, scale, features.shape[0], features.shape[2]
    )
    close(gradient, outputs["grad_features"], entry["tolerance"])


@pytest.mark.parametrize("name", ALIGN)
def test_align1d(golden: Path, name: str) -> None:
    entry, inputs, outputs = case(golden, f"align1d_{name}")
    size, ratio = entry["args"]["resolution"], entry["args"]["sampling_ratio"]
    features = inputs["input"].requires_grad_()
    aligned = align1d(features, inputs["rois"], size, ratio)
    aligned.backward(inputs["grad_output"])
    close(aligned.detach(), outputs["output"], entry["tolerance"])
    close(features.grad, outputs["grad_input"], entry["tolerance"])


@pytest.mark.parametrize("name", ALIGN)
def test_reference_align1d(golden: Path, name: str) -> None:
    entry, inputs, outputs = case(golden, f"align1d_{name}")
    features, rois, ratio = inputs["input"], inputs["rois"], entry["args"]["sampling_ratio"]
    aligned = reference_align1d(features, rois, entry["args"]["resolution"], ratio)
    close(aligned, outputs["output"], entry["tolerance"])
    gradient = reference_align1d_backward(
        inputs["grad_output"], rois, features.shape[0], features.shape[2], ratio
    )
    close(gradient, outputs["grad_input"], entry["tolerance"])


@pytest.mark.parametrize("variant", GRAPH_ALIGN)
def test_project_align1d(golden: Path, variant: str) -> None:
    """The 1x1 convolution behind G-TAD's alignment, without aligning; rois there are (starts, durations)."""
    entry, inputs, outputs = case(golden, f"graph_align_{variant}")
    inner, context = GRAPH_ALIGN[variant]
    features = inputs["input"].requires_grad_()
    kernel, bias = inputs["conv_weight"].requires_grad_(), inputs["conv_bias"].requires_grad_()
    batch, channels, frames = features.shape
    rois = outputs["anchors"].reshape(batch, -1, 3)[0, :, 1:]
    neighbours = outputs["knn_index"]
    mean = torch.stack([video[:, index].mean(-1) for video, index in zip(features, neighbours, strict=True)])
    weight = kernel.reshape(-1, channels, inner + context)
    if variant == "gtad":  # one sampling pattern: the two features are stacked
        both = torch.cat([weight[:, :, :inner], weight[:, :, inner:]], 1)
        output = project_align1d(torch.cat([features, mean], 1), rois, both, bias)
    else:
        output = project_align1d(features, rois, weight[:, :, :inner], bias)
        output = output + project_align1d(mean, rois, weight[:, :, inner:])
    output = output.reshape(batch, -1, frames, rois.shape[0] // frames).transpose(2, 3)
    output.backward(inputs["grad_output"])
    close(output.detach(), outputs["output"], entry["tolerance"])
    close(features.grad, outputs["grad_input"], entry["tolerance"])
    close(kernel.grad, outputs["grad_conv_weight"], entry["tolerance"])
    close(bias.grad, outputs["grad_conv_bias"], entry["tolerance"])


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


@pytest.mark.parametrize("name", ["base_net", "base_net_short"])
def test_two_layers_with_relu(golden: Path, name: str) -> None:
    entry, inputs, outputs = case(golden, name)
    rows, columns, units = zip(*entry["args"]["kernels"], strict=True)
    kernels: dict[str, Any] = {"kernel_sizes": list(zip(rows, columns, strict=True)), "units": units}
    parameters = {
        key[6:]: value.requires_grad_() for key, value in inputs.items() if key.startswith("param.")
    }
    features = output = inputs["input"].requires_grad_()
    for layer in (0, 2):
        names = [f"layers.{layer}.branches.{branch}" for branch in range(len(units))]
        weights, biases = ([parameters[f"{name}.{kind}"] for name in names] for kind in ("weight", "bias"))
        output = msta_conv1d(output, weights, biases, **kernels).relu()
    output.backward(inputs["grad_output"])
    close(output.detach(), outputs["output"], entry["tolerance"])
    close(features.grad, outputs["grad_input"], entry["tolerance"])
    for key, parameter in parameters.items():
        close(parameter.grad, outputs[f"grad.{key}"], entry["tolerance"])


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


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_soft_nms1d(golden: Path, method: Literal["linear", "gaussian"]) -> None:
    """Each decay rule alone: which segments are left, in which order, with which scores."""
    with np.load(golden / "postproc" / "actionformer_nms.npz", allow_pickle=False) as file:
        segments, scores = torch.from_numpy(file["segments"]), torch.from_numpy(file["scores"])
        index, detections = file[f"softnms_{method}/index"], file[f"softnms_{method}/dets"]
    threshold, sigma, least = 0.3, 0.5, 0.02  # the only ones among round numbers that give these indices
    groups = torch.zeros(len(scores), dtype=torch.int64)
    found = soft_nms1d(segments, scores, method, iou_threshold=threshold, sigma=sigma, min_score=least)
    reference = reference_soft_nms1d(segments, scores, groups, method, threshold, sigma, least, 0)
    for kept, decayed in (found[:2], reference):
        assert kept.tolist() == index.tolist()
        np.testing.assert_allclose(decayed, detections[:, 2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "run", ["thumos", "high_min_score", "agnostic_voting", "agnostic_anet", "hard_agnostic_voting"]
)
def test_post_processing_of_actionformer(golden: Path, run: str) -> None:
    """Suppression, voting and the cuts to a number, composed from the operators."""
    options = json.loads((golden / "postproc" / "actionformer_nms.json").read_text())[run]
    with np.load(golden / "postproc" / "actionformer_nms.npz", allow_pickle=False) as file:
        segments, scores, labels = (torch.from_numpy(file[key]) for key in ("segments", "scores", "labels"))
        wanted = {key: file[f"{run}/{key}"] for key in ("segments", "scores", "labels")}
    if options["use_soft_nms"]:
        found = soft_nms1d(
            segments,
            scores,
            groups=labels if options["multiclass"] else None,
            sigma=options["sigma"],
            min_score=options["min_score"],
            limit=options["max_seg_num"],
            voting_threshold=None if options["multiclass"] else options["voting_thresh"],
        )
    else:
        kept = nms1d(segments, scores, options["iou_threshold"])
        moved = vote1d(segments[kept], segments, scores, options["voting_thresh"])
        found = SoftNms(kept, scores[kept], moved)
    count = min(options["max_seg_num"], len(found.kept))
    np.testing.assert_allclose(found.scores[:count], wanted["scores"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.segments[:count], wanted["segments"], rtol=1e-5, atol=1e-5)
    if options["multiclass"]:
        assert labels[found.kept[:count]].tolist() == wanted["labels"].tolist()
