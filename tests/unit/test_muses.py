"""MUSES beyond its published numbers: padding, missing kinds, options, initial weights."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.detectors import build_detector
from avfusion.detectors.base import Video
from avfusion.detectors.drawing import SampleTable
from avfusion.detectors.muses import AggregationLayer, Example, HeadScores, Muses, Options
from avfusion.detectors.sampling import FOREGROUND, INCOMPLETE
from avfusion.errors import InputError

SMALL: dict[str, Any] = {"backbone_dims": [6, 8], "hidden": 7, "dropout": 0.0}


def small(widths: Sequence[int] = (5,), **changes: Any) -> Muses:
    torch.manual_seed(0)
    detector = build_detector("muses", SMALL | changes, widths, classes=3)
    assert isinstance(detector, Muses)
    return detector.eval()


def clip(snippets: int, seed: int) -> Video:
    rng = np.random.RandomState(seed)
    values = rng.standard_normal((snippets, 5)).astype(np.float32)
    start = rng.uniform(0, snippets * 0.3, 30)
    proposals = np.stack([start, start + rng.uniform(1, snippets * 0.2, 30)], 1)
    instances = np.array([[snippets * 0.2, snippets * 0.4], [snippets * 0.5, snippets * 0.6]])
    return Video(
        f"clip{seed}", VideoFeatures(values, TimeAxis(0.2, 0.4, 1.0)), proposals, instances, np.array([0, 2])
    )


def drawn(detector: Muses, lengths: Sequence[int], batches: int = 1) -> list[list[Example]]:
    """Examples of videos of some lengths, dealt to batches of equal size."""
    examples = detector.training_set([clip(length, k) for k, length in enumerate(lengths)])
    chosen = list(examples.draw_many(range(len(lengths)), np.random.RandomState(0)))
    size = len(chosen) // batches
    return [chosen[i : i + size] for i in range(0, len(chosen), size)]


def gradients(detector: Muses, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    detector.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in detector.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("size", [1, 2])
def test_batches_at_once_have_the_losses_and_gradients_that_they_have_alone(size: int) -> None:
    detector = small().double()
    batches = drawn(detector, [60, 45, 300, 9, 41, 150, 23, 200], batches=8 // size)
    # one video has no incomplete proposals: foreground stands in, and counts differ between the batches
    kinds = batches[1][0].samples.kinds
    kinds[kinds == INCOMPLETE] = FOREGROUND
    together = detector.training_steps(batches)
    gradient = gradients(detector, together["total"].sum())
    alone = [detector.training_step(batch) for batch in batches]
    for name in ("activity", "completeness", "regression", "total"):
        wanted = torch.stack([losses[name] for losses in alone])
        torch.testing.assert_close(together[name], wanted, rtol=1e-12, atol=1e-14)
    one_by_one = gradients(detector, torch.stack([losses["total"] for losses in alone]).sum())
    assert set(gradient) == set(one_by_one) == {name for name, _ in detector.named_parameters()}
    for name, value in gradient.items():
        torch.testing.assert_close(value, one_by_one[name], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("detector", [small(), small([3, 2], attention=2)], ids=["plain", "attention"])
def test_what_is_read_of_packed_videos_is_what_whole_videos_give(detector: Muses) -> None:
    detector.double()
    (examples,) = drawn(detector, [200, 9, 300, 64])
    losses = detector.training_step(examples)
    # the same, with the backbone over each whole video and all videos scored one by one
    scores = []
    for example in examples:
        rows = np.arange(example.bank.lengths[example.video]) + example.bank.begins[example.video]
        rois = torch.from_numpy(example.samples.rois[0])
        indexed = torch.cat([torch.zeros_like(rois[:, :1]), rois], 1)
        scores.append(detector.score(example.bank.gather(rows).double().T[None], indexed))
    joined = HeadScores(*(torch.cat(column) for column in zip(*scores, strict=True)))
    samples = SampleTable.joined(example.samples for example in examples)
    table = (torch.from_numpy(column) for column in (samples.kinds, samples.labels, samples.targets))
    wanted = detector.losses(joined, *table)
    assert losses.keys() == wanted.keys()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(wanted[name].item(), rel=1e-12)
    got, expected = gradients(detector, losses["total"]), gradients(detector, wanted["total"])
    for name, value in got.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-11, atol=1e-14)


def test_a_long_video_is_computed_only_where_proposals_read_it() -> None:
    detector = small()
    ((example,),) = drawn(detector, [4000])
    rois = example.samples.rois.copy()
    rois[0, :, 2], rois[0, :, 3] = 8000 + np.arange(8), 8100
    table = replace(example.samples, rois=rois)
    lengths = []
    detector.backbone.register_forward_hook(lambda *arguments: lengths.append(arguments[1][0].shape[2]))
    detector.training_step([example._replace(samples=table)])
    assert lengths == [64]  # 14 snippets are read, 20 more on each side are seen, in steps of 64


def test_several_groups_share_one_pass_through_the_backbone() -> None:
    detector = small(groups=3)
    example = detector.training_set([clip(60, 1)]).draw(0, np.random.RandomState(0))
    assert example.samples.rois.shape == (3, 8, 4)
    calls = []
    detector.backbone.register_forward_hook(lambda *arguments: calls.append(arguments[1][0].shape))
    detector.training_step([example])
    assert calls == [(1, 5, 128)]  # 60 snippets, and at both ends the 10 zeros that a layer reads


def test_stand_ins_for_incomplete_proposals_count_only_as_published() -> None:
    scores = HeadScores(torch.zeros(8, 4), torch.full((8, 3), 5.0), torch.zeros(8, 3, 2))
    kinds, labels = torch.zeros(1, 8, dtype=torch.int64), torch.ones(1, 8, dtype=torch.int64)
    mended = small().losses(scores, kinds, labels, torch.zeros(1, 8, 2))
    published = small(mend_missing=False).losses(scores, kinds, labels, torch.zeros(1, 8, 2))
    assert mended["completeness"].item() == 0.0
    assert published["completeness"].item() == pytest.approx((0 + 6) / 2)


def test_predicted_shifts_are_in_real_units() -> None:
    detector, video = small(), clip(40, 3)
    neutral = detector.predict(video)
    detector.load_statistics({"reg_stats": torch.tensor([[0.5, -1.0], [2.0, 3.0]], dtype=torch.float64)})
    scaled = detector.predict(video)
    np.testing.assert_allclose(
        scaled.regression, neutral.regression * [2.0, 3.0] + [0.5, -1.0], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(scaled.activity, neutral.activity)
    assert neutral.activity.shape == (30, 4) and neutral.completeness.shape == (30, 3)
    assert neutral.activity.dtype == np.float32 and neutral.proposals.dtype == np.float64


def test_predicting_no_proposals() -> None:
    video = clip(40, 3)
    nothing = Video(video.name, video.features, np.zeros((0, 2)))
    assert small().predict(nothing).regression.shape == (0, 3, 2)


def test_training_leaves_out_videos_without_instances() -> None:
    full = clip(40, 1)
    empty = Video("empty", full.features, full.proposals)
    assert len(small().training_set([full, empty])) == 1


def test_the_sum_of_the_branches_keeps_the_variance() -> None:
    torch.manual_seed(0)
    layer = AggregationLayer(64, 64)
    output = layer(torch.randn(4, 64, 200).relu() * 2**0.5)
    assert 1.0 < float(output.detach()[:, :, 20:-20].var()) < 3.0  # He: twice the mean square of the input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone_dims": [6]}, "backbone_dims: must be two widths"),
        ({"roi_size": 3}, "roi_size: must be even"),
        ({"dropout": 1.0}, r"dropout: must be in \[0, 1\)"),
        ({"hidden": 0}, "hidden: must be at least 1"),
        ({"dorpout": 0.5}, "unknown option 'dorpout'.*did you mean 'dropout'"),
        ({"sampling": {"background": "one"}}, "model.sampling.background: must be a whole number"),
    ],
)
def test_bad_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_detector("muses", SMALL | changes, [5], 3)


def test_unknown_detector() -> None:
    with pytest.raises(InputError, match="there is no detector 'muse'"):
        build_detector("muse", {}, [5], 3)


def test_the_defaults_are_the_published_ones() -> None:
    options = Options()
    assert (options.backbone_dims, options.hidden, options.roi_size, options.dropout) == (
        (384, 512),
        384,
        4,
        0.8,
    )


def test_attention_learns_with_the_rest() -> None:
    detector = small([3, 2], attention=1).train()
    examples = detector.training_set([clip(60, 1)])
    optimiser = torch.optim.Adam(detector.parameters(), lr=3e-3)
    rng, losses = np.random.RandomState(0), []
    for _ in range(40):
        optimiser.zero_grad()
        loss = detector.training_step([examples.draw(0, rng)])["total"]
        loss.backward()
        for name, parameter in detector.named_parameters():
            if name.startswith("U_"):
                assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


@pytest.mark.parametrize(
    ("widths", "message"),
    [((5,), "attention: needs a visual stream and sound"), ((2, 3), "the sound has 3 channels")],
)
def test_attention_needs_picture_and_sound(widths: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(widths, attention=1)
    with pytest.raises(InputError, match="attention: must not be negative, not -1"):
        small(widths, attention=-1)
