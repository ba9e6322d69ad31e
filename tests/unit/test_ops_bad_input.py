"""Every operator on the CPU: what is wrong is an exception that names the argument, nothing is a result."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from avfusion.ops import (
    align1d,
    iou1d,
    msta_conv1d,
    nms1d,
    project_align1d,
    roi_max_pool1d,
    soft_nms1d,
)

GOOD: dict[Callable[..., Any], dict[str, Any]] = {
    roi_max_pool1d: {
        "features": torch.ones(2, 3, 4),
        "rois": torch.tensor([[1.0, 0.0, 3.0]]),
        "output_size": 2,
        "spatial_scale": 1.0,
    },
    align1d: {"features": torch.ones(2, 3, 4), "rois": torch.tensor([[1.0, 0.0, 3.0]]), "output_size": 2},
    project_align1d: {
        "features": torch.ones(2, 3, 4),
        "rois": torch.tensor([[0.0, 3.0]]),
        "weight": torch.ones(5, 3, 2),
        "bias": torch.ones(5),
    },
    msta_conv1d: {
        "features": torch.ones(2, 3, 4),
        "weights": [torch.ones(5, 3, 1, 3)],
        "biases": [torch.ones(5)],
        "kernel_sizes": [(1, 3)],
        "units": [3],
    },
    iou1d: {"a": torch.tensor([[0.0, 1.0]]), "b": torch.tensor([[0.0, 2.0]])},
    nms1d: {"segments": torch.tensor([[0.0, 1.0]]), "scores": torch.ones(1), "threshold": 0.5},
    soft_nms1d: {"segments": torch.tensor([[0.0, 1.0]]), "scores": torch.ones(1)},
}

FEATURES: list[tuple[str, Any]] = [
    ("features", torch.ones(3, 4)),
    ("features", torch.ones(2, 3, 0)),
    ("features", torch.ones(2, 3, 4).long()),
    ("features", torch.ones(2, 3, 4, dtype=torch.complex64)),
    ("features", torch.ones(2, 3, 4, dtype=torch.bool)),
]
SEGMENTS: list[tuple[str, Any]] = [
    ("segments", torch.ones(1, 3)),
    ("segments", torch.ones(2)),
    ("segments", torch.ones(1, 2).long()),
    ("segments", torch.ones(1, 2, dtype=torch.complex64)),
    ("segments", torch.full((1, 2), torch.nan)),
    ("scores", torch.ones(2)),
    ("scores", torch.ones(1, 1)),
    ("scores", torch.ones(1, dtype=torch.bool)),
    ("scores", torch.ones(1, dtype=torch.complex64)),
    ("scores", torch.ones(1, device="meta")),
    ("scores", torch.full((1,), torch.nan)),
    ("groups", torch.ones(1)),
    ("groups", torch.ones(2).long()),
    ("groups", torch.ones(1, dtype=torch.int64, device="meta")),
]


def rois(columns: int) -> list[tuple[str, Any]]:
    """Wrong rois of an operator that takes so many columns."""
    return [
        ("rois", torch.ones(1, columns + 1)),
        ("rois", torch.ones(columns)),
        ("rois", torch.ones(1, columns, dtype=torch.bool)),
        ("rois", torch.ones(1, columns, dtype=torch.complex64)),
        ("rois", torch.ones(1, columns, device="meta")),
    ]


VIDEOS = [("rois", torch.tensor([[video, 0.0, 1.0]])) for video in (-1.0, 2.0, 1e9)]
BAD: dict[Callable[..., Any], list[tuple[str, Any]]] = {
    roi_max_pool1d: [
        *FEATURES,
        *rois(3),
        *VIDEOS,
        *[("output_size", size) for size in (0, -1)],
        *[("spatial_scale", scale) for scale in (0.0, -1.0, float("nan"), float("inf"))],
    ],
    align1d: [
        *FEATURES,
        *rois(3),
        *VIDEOS,
        ("rois", torch.tensor([[0.0, torch.nan, 1.0]])),
        *[("output_size", size) for size in (0, -1)],
        ("sampling_ratio", -1),
    ],
    project_align1d: [
        *FEATURES,
        *rois(2),
        ("rois", torch.tensor([[torch.nan, 1.0]])),
        ("weight", torch.ones(5, 3)),
        ("weight", torch.ones(5, 2, 2)),
        ("weight", torch.ones(5, 3, 0)),
        ("weight", torch.ones(5, 3, 2).long()),
        ("weight", torch.ones(5, 3, 2).double()),
        ("weight", torch.ones(5, 3, 2, device="meta")),
        ("bias", torch.ones(3)),
        ("bias", torch.ones(5).long()),
        ("bias", torch.ones(5, device="meta")),
        ("sampling_ratio", -1),
    ],
    msta_conv1d: [
        *FEATURES,
        ("weights", []),
        ("weights", [torch.ones(5, 2, 1, 3)]),
        ("weights", [torch.ones(5, 3, 1, 9)]),
        ("weights", [torch.ones(5, 3, 3)]),
        ("weights", [torch.ones(5, 3, 1, 3).long()]),
        ("weights", [torch.ones(5, 3, 1, 3).double()]),
        ("weights", [torch.ones(5, 3, 1, 3, device="meta")]),
        ("biases", []),
        ("biases", [torch.ones(3)]),
        ("biases", [torch.ones(5).long()]),
        ("biases", [torch.ones(5, device="meta")]),
        ("kernel_sizes", []),
        ("kernel", [(2, 3)]),
        ("units", [3, 6]),
        ("units", [0]),
        ("units", [-3]),
    ],
    iou1d: [
        (name, segments)
        for name in ("a", "b")
        for segments in (
            torch.ones(2),
            torch.ones(1, 3),
            torch.ones(1, 2, dtype=torch.bool),
            torch.ones(1, 2, dtype=torch.complex64),
            torch.full((1, 2), torch.nan),
        )
    ]
    + [("b", torch.ones(1, 2, device="meta"))],
    nms1d: [*SEGMENTS, *[("threshold", value) for value in (-0.1, 1.1, float("nan"))]],
    soft_nms1d: [
        *SEGMENTS,
        ("method", "hard"),
        *[("iou_threshold", value) for value in (-0.1, 1.1, float("nan"))],
        *[("sigma", value) for value in (0.0, -1.0, float("nan"))],
        ("min_score", float("nan")),
        *[("limit", value) for value in (0, -1)],
        *[("voting_threshold", value) for value in (0.0, -1.0, float("nan"))],
    ],
}


@pytest.mark.parametrize(
    ("operator", "name", "value"),
    [
        pytest.param(operator, name, value, id=f"{operator.__name__}-{name}-{number}")
        for operator, cases in BAD.items()
        for number, (name, value) in enumerate(cases)
    ],
)
def test_what_is_wrong_is_named(operator: Callable[..., Any], name: str, value: Any) -> None:
    argument = {"kernel": "kernel_sizes"}.get(name, name)
    operator(**GOOD[operator])
    wanted = name.removeprefix("voting_")
    with pytest.raises((ValueError, IndexError), match=rf"\b{wanted}\b"):
        operator(**(GOOD[operator] | {argument: value}))


def test_long_features_name_what_is_wrong_as_short_ones_do() -> None:
    """They are convolved in another way."""
    long = {**GOOD[msta_conv1d], "features": torch.ones(1, 3, 500)}
    for name, value in BAD[msta_conv1d]:
        if name != "features":
            argument = {"kernel": "kernel_sizes"}.get(name, name)
            with pytest.raises(ValueError, match=rf"\b{name}\b"):
                msta_conv1d(**(long | {argument: value}))


@pytest.mark.parametrize(
    ("operator", "changes", "shape"),
    [
        (roi_max_pool1d, {"rois": torch.zeros(0, 3)}, (0, 3, 2)),
        (roi_max_pool1d, {"rois": torch.zeros(0, 3), "features": torch.ones(0, 3, 4)}, (0, 3, 2)),
        (align1d, {"rois": torch.zeros(0, 3)}, (0, 3, 2)),
        (align1d, {"rois": torch.zeros(0, 3), "features": torch.ones(0, 3, 4)}, (0, 3, 2)),
        (project_align1d, {"rois": torch.zeros(0, 2)}, (2, 5, 0)),
        (project_align1d, {"features": torch.ones(0, 3, 4)}, (0, 5, 1)),
        (msta_conv1d, {"features": torch.ones(0, 3, 4)}, (0, 5, 4)),
        (msta_conv1d, {"features": torch.ones(0, 3, 500)}, (0, 5, 500)),
        (iou1d, {"a": torch.ones(0, 2)}, (0, 1)),
        (iou1d, {"b": torch.ones(0, 2)}, (1, 0)),
        (nms1d, {"segments": torch.ones(0, 2), "scores": torch.ones(0)}, (0,)),
    ],
)
def test_nothing_is_no_error(
    operator: Callable[..., Any], changes: dict[str, Any], shape: tuple[int, ...]
) -> None:
    assert operator(**(GOOD[operator] | changes)).shape == shape


def test_a_roi_of_no_videos_names_them() -> None:
    for operator in (roi_max_pool1d, align1d):
        with pytest.raises(IndexError, match="rois"):
            operator(**(GOOD[operator] | {"features": torch.ones(0, 3, 4)}))
