"""G-TAD beyond its published numbers: options, training, windows, attention, proposals in seconds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from training_data import planted

from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.data.proposals import RankedProposals, read_ranked, write_proposals
from avfusion.detectors import build_detector
from avfusion.detectors.base import Video
from avfusion.detectors.gtad import Example, Gtad, Maps
from avfusion.detectors.gtad_graph import GraphLayer, gather, nearest
from avfusion.detectors.gtad_losses import balanced_cross_entropy, node_loss, subgraph_loss
from avfusion.engine.checkpoint import read_checkpoint
from avfusion.engine.predict import load_detector, propose
from avfusion.engine.ranking import classify, detections_from_proposals
from avfusion.engine.train import train
from avfusion.errors import InputError
from avfusion.evaluation.mean_ap import evaluate
from avfusion.evaluation.segments import segment_iou

SMALL: dict[str, Any] = {
    **{"temporal_scale": 48, "max_duration": 16, "hidden_1d": 32, "hidden_2d": 16, "hidden_3d": 32},
    **{"groups": 4, "inner_slots": 8, "context_slots": 8, "exact_times": True, "full_windows": True},
    **{"ranking": {"longest": None, "return_last": True}},
}
CONFIG: dict[str, Any] = {
    "detector": "gtad",
    "model": SMALL | {"classifier": "linear"},
    "training": {"lr": 0.004, "epochs": 10, "batch_size": 4, "steps": [8], "standardise": True},
}


def small(widths: tuple[int, ...] = (12,), **changes: Any) -> Gtad:
    torch.manual_seed(0)
    detector = build_detector("gtad", SMALL | changes, widths=widths, classes=3)
    assert isinstance(detector, Gtad)
    return detector.eval()


def clip(snippets: int, channels: int = 12, seed: int = 0) -> Video:
    values = np.random.RandomState(seed).standard_normal((snippets, channels)).astype(np.float32)
    segments = np.array([[3.0, 6.0], [12.0, 15.5]])
    features = VideoFeatures(values, TimeAxis(0.5, 0.5, 1.0))
    return Video("clip", features, instances=segments, classes=np.array([0, 2]))


def drawn(detector: Gtad, video: Video, seed: int = 0) -> list[Example]:
    examples, rng = detector.training_set([video]), np.random.RandomState(seed)
    return [examples.draw(k, rng) for k in range(len(examples))]


# --- training


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gtad")
    features, annotations = planted(12, seed=1)
    train(CONFIG, features, {}, annotations, 0, folder / "model.pt", folder / "log.csv", "cpu")
    return folder


def test_the_loss_falls(trained: Path) -> None:
    header, *rows = (trained / "log.csv").read_text().splitlines()
    assert header.split(",")[2:-1] == ["regression", "classification", "node", "total"]
    totals = [float(row.split(",")[5]) for row in rows]
    assert totals[-1] < 0.3 * totals[0]


def test_planted_actions_are_proposed_first_and_named(trained: Path) -> None:
    features, annotations = planted(6, seed=2, subset="test")
    ranked = propose(trained / "model.pt", features, list(features), "cpu")
    assert list(ranked) == list(features)
    found = []
    for video, proposals in ranked.items():
        instances = np.array([(i.start, i.end) for i in annotations.videos[video].instances])
        best = proposals.segments[: 2 * len(instances)]
        found += segment_iou(instances, best).max(axis=1).tolist()
        assert (np.diff(proposals.scores) <= 0).all()
    assert np.mean(np.array(found) > 0.7) > 0.8

    write_proposals(trained / "ranked.h5", ranked, "gtad")
    again = read_ranked(trained / "ranked.h5")
    scores = classify(trained / "model.pt", features, again)
    durations = {video: value.duration or 0.0 for video, value in annotations.videos.items()}
    detections = detections_from_proposals(again, scores, annotations.labels, durations)
    assert evaluate(detections, annotations, [0.5]).average > 0.8


def test_one_seed_one_checkpoint(trained: Path, tmp_path: Path) -> None:
    features, annotations = planted(4, seed=1)
    short = CONFIG | {"training": CONFIG["training"] | {"epochs": 1, "steps": []}}
    for name in ("a", "b"):
        train(short, features, {}, annotations, 3, tmp_path / name, device="cpu")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_stopped_training_goes_on_as_if_it_never_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, annotations = planted(4, seed=1)
    short = CONFIG | {"training": CONFIG["training"] | {"epochs": 2, "steps": [1]}}

    def run(name: str) -> bytes:
        out, state = tmp_path / name, tmp_path / f"{name}.state"
        arguments = (short, features, {}, annotations, 0, out)
        train(*arguments, device="cpu", resume_path=state, save_every=0)
        return out.read_bytes()

    wanted, calls = run("straight"), []
    original = Gtad.training_step

    def breaking(self: Gtad, examples: Any) -> Any:
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, examples)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Gtad, "training_step", breaking)
        run("stopped")
    assert not (tmp_path / "stopped").exists()
    assert run("stopped") == wanted


def test_the_classifier_comes_back_with_the_checkpoint(trained: Path) -> None:
    checkpoint = read_checkpoint(trained / "model.pt")
    detector = load_detector(checkpoint)
    assert isinstance(detector, Gtad) and detector.class_weight is not None
    assert torch.equal(detector.class_weight, checkpoint.statistics["class_weight"])
    assert detector.class_weight.abs().sum() > 0
    assert not any(name.startswith("class_") for name in checkpoint.state_dict)


def test_the_classifier_changes_nothing_of_the_rest() -> None:
    plain, with_classes = small(), small(classifier="linear")
    assert list(plain.state_dict()) == list(with_classes.state_dict())
    losses = [model.training_step(drawn(model, clip(60))) for model in (plain, with_classes)]
    assert losses[0].keys() == losses[1].keys()
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
    assert plain.statistics() == {}
    with pytest.raises(ValueError, match="no classifier of segments"):
        plain.class_scores(clip(60), np.zeros((1, 2)))


def test_examples_are_windows_with_an_instance_and_new_draws() -> None:
    detector = small()
    examples = detector.training_set([clip(100), clip(60, seed=1)])
    assert len(examples) == 4  # of the first video those from 0 and 24, of the second from 0 and 12
    first, again = (examples.draw(0, np.random.RandomState(s)) for s in (0, 0))
    other = examples.draw(0, np.random.RandomState(1))
    assert first.features.shape == (12, 48) and first.uniform.shape == (2, 16, 48)
    assert torch.equal(first.uniform, again.uniform) and not torch.equal(first.uniform, other.uniform)
    assert torch.equal(first.iou, other.iou) and first.iou.max() > 0.8


def test_videos_without_instances_train_nothing() -> None:
    full = clip(60)
    empty = Video("empty", full.features)
    assert len(small().training_set([empty])) == 0
    assert len(small().training_set([empty, full])) == len(small().training_set([full]))


# --- losses


def test_the_weights_of_the_maps_are_options() -> None:
    losses = [
        small(**weights).training_step(drawn(small(), clip(60)))
        for weights in ({}, {"regression_weight": 10, "classification_weight": 1})
    ]
    first = losses[0]
    assert all(torch.equal(first[name], losses[1][name]) for name in ("regression", "classification", "node"))
    wanted = first["regression"] + 10 * first["classification"] + first["node"]
    torch.testing.assert_close(first["total"], wanted)
    wanted = 10 * first["regression"] + first["classification"] + first["node"]
    torch.testing.assert_close(losses[1]["total"], wanted)


def test_losses_never_wait_for_the_device() -> None:
    with FakeTensorMode():  # raises where a value is looked at
        maps, iou = torch.rand(2, 2, 4, 8), torch.rand(2, 4, 8)
        loss = sum(subgraph_loss(maps, iou, torch.ones(4, 8), torch.rand(2, 2, 4, 8)))
        loss = loss + node_loss(*(torch.rand(2, 8) for _ in range(4)))
    assert loss.shape == ()


def test_both_kinds_of_entries_weigh_the_same() -> None:
    predicted = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.9])
    positive = torch.tensor([True, False, False, False, False])
    counted = torch.tensor([True, True, True, True, False])
    loss = balanced_cross_entropy(predicted, positive, counted)
    assert loss.item() == pytest.approx(-np.log(0.5), rel=1e-5)
    with_margin = balanced_cross_entropy(predicted, positive, counted, margin=1)
    assert with_margin.item() == pytest.approx(-np.log(0.5) * (1 / 2 + 3 / 4) / 2, rel=1e-5)


def test_windows_without_anything_positive_have_a_finite_loss() -> None:
    half, nothing = torch.full((1, 2, 4, 8), 0.5, requires_grad=True), torch.zeros(1, 4, 8)
    parts = subgraph_loss(half, nothing, torch.ones(4, 8), torch.zeros(2, 1, 4, 8))
    assert parts.regression.item() == 0 and torch.isfinite(parts.classification)
    boundary = torch.full((1, 8), 0.5)
    assert torch.isfinite(node_loss(boundary, boundary, torch.zeros(1, 8), torch.ones(1, 8)))


def test_every_place_counts_where_good_candidates_outnumber_the_others() -> None:
    """As published: a ratio above 1 lets the draw of a kind take all places, once more for each kind."""
    iou = torch.zeros(1, 2, 4)
    iou[0, 0, :3] = torch.tensor([0.9, 0.8, 0.5])  # two good, one middling, none poor: both kinds overflow
    maps = torch.zeros(1, 2, 2, 4)
    loss = subgraph_loss(maps, iou, torch.ones(2, 4), torch.zeros(2, 1, 2, 4)).regression
    weight = np.array([3, 3, 2])
    squares = float(((weight * np.array([0.9, 0.8, 0.5])) ** 2).sum())
    assert loss.item() == pytest.approx(0.5 * squares / (weight.sum() + 2 * 5), rel=1e-6)


# --- network


def test_neighbours() -> None:
    features = torch.tensor([[[0.0, 5.0, 1.0, 6.0]]])
    index = nearest(features, 2)
    assert index.tolist() == [[[0, 2], [1, 3], [2, 0], [3, 1]]]
    assert gather(features, index)[0, 0].tolist() == [[0, 1], [5, 6], [1, 0], [6, 5]]


def test_a_graph_layer_is_what_its_edges_say() -> None:
    """Projected before they are gathered, as good as convolving [neighbour, snippet] pairs."""
    torch.manual_seed(0)
    layer, features = GraphLayer(6, groups=2, neighbours=3), torch.randn(2, 6, 9)
    index = nearest(features, 3)
    pairs = torch.cat([gather(features, index), features[..., None].expand(-1, -1, -1, 3)], dim=1)
    wanted = torch.relu(layer.tconvs(features) + features + layer.sconvs(pairs).amax(dim=3))
    torch.testing.assert_close(layer(features), wanted)


@pytest.mark.parametrize("style", [0, 1, 2])
def test_every_style_works_with_any_duration(style: int) -> None:
    maps = small(style=style, max_duration=7).maps(torch.randn(2, 12, 48))
    assert maps.candidates.shape == (2, 2, 7, 48) and maps.start.shape == (2, 48)
    assert all(bool(((part >= 0) & (part <= 1)).all()) for part in maps)


@pytest.mark.parametrize("size", [1, 5])
def test_the_maps_keep_their_size_whatever_the_kernel(size: int) -> None:
    detector = small(kernel_2d=size)
    assert detector.localization.get_parameter("4.weight").shape == (16, 16, size, size)
    assert detector.maps(torch.randn(1, 12, 48)).candidates.shape == (1, 2, 16, 48)


def test_context_with_slots_of_its_own_is_always_sampled_as_it_is_long() -> None:
    uneven, features = {"inner_slots": 8, "context_slots": 4}, torch.randn(1, 12, 48)
    one, all_of_them = small(sampling_ratio=1, **uneven), small(sampling_ratio=0, **uneven)
    split = {"split_size": [8, 4], "dim": 2}
    for detector in (one, all_of_them):
        kernel = detector.localization.get_parameter("0.weight")
        kernel.data.reshape(32, 32, 12).split(**split)[0].zero_()  # only the context is left
    torch.testing.assert_close(one.maps(features).candidates, all_of_them.maps(features).candidates)


def test_attention_takes_the_first_stream_for_the_picture() -> None:
    detector = small(widths=(12, 8), attention=1)
    assert detector.backbone1[0].weight.shape[1] == 12 // 4
    losses = detector.training_step(drawn(detector, clip(60, channels=20)))
    losses["total"].backward()
    for layers in (detector.U_v, detector.U_a):
        assert all(parameter.grad.abs().sum() > 0 for parameter in layers.parameters())


def test_attention_alone_makes_the_loss_fall() -> None:
    detector = small(widths=(12, 8), attention=1)
    batch = drawn(detector, clip(60, channels=20))
    layers = [*detector.U_v.parameters(), *detector.U_a.parameters()]
    optimiser = torch.optim.Adam(layers, lr=0.05)
    found = []
    for _ in range(20):
        loss = detector.training_step(batch)["total"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    assert found[-1] < 0.97 * found[0]


def test_lower_precision_moves_the_losses_a_little() -> None:
    detector = small()
    batch = drawn(detector, clip(60))
    exact = detector.training_step(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = detector.training_step(batch)
    assert rough["total"].dtype == torch.float32
    for name, value in exact.items():
        assert rough[name].item() == pytest.approx(value.item(), rel=0.05), name


# --- proposals


def perfect(detector: Gtad, video: Video, monkeypatch: pytest.MonkeyPatch) -> RankedProposals:
    """Proposals of a network whose maps are the targets."""
    examples = iter(drawn(detector, video))

    def maps(features: torch.Tensor) -> Maps:
        targets = [next(examples).iou.square() for _ in features]
        both = torch.stack([torch.stack([iou, iou]) for iou in targets])
        return Maps(both, torch.zeros(len(features), 48), torch.zeros(len(features), 48))

    monkeypatch.setattr(detector, "maps", maps)
    return detector.predict(video)


@pytest.mark.parametrize("windows", ["sliding", "rescaled"])
def test_perfect_maps_give_back_the_instances(windows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    segments = np.array([[3.25, 6.25], [12.25, 14.25]])  # begin and end with cells of half a second
    axis = TimeAxis(0.5, 0.5, 1.0)
    values = np.zeros((48, 12), np.float32)
    video = Video("clip", VideoFeatures(values, axis), instances=segments, classes=np.array([0, 1]))
    found = perfect(small(windows=windows), video, monkeypatch).segments[:2]
    np.testing.assert_allclose(found[found[:, 0].argsort()], segments, atol=1e-9)


def test_published_proposals_are_later_than_what_they_were_trained_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By 2 frames in the first window, whose offset int(-2.5) is -2, and which is read from frame 0 on."""
    segments, late = np.array([[3.3, 6.3], [12.3, 14.3]]), 2 / 5 * 0.5
    video = Video("clip", clip(48).features, instances=segments, classes=np.array([0, 1]))
    published = {"exact_times": False, "full_windows": False, "ranking": {}}
    found = perfect(small(**published), video, monkeypatch).segments[:2]
    np.testing.assert_allclose(found[found[:, 0].argsort()], segments + late, atol=1e-9)


def test_windows_cover_the_whole_of_a_video() -> None:
    values = np.random.RandomState(0).standard_normal((101, 12)).astype(np.float32)
    video = Video("clip", VideoFeatures(values, TimeAxis(0.5, 0.5, 1.0)))
    everything = {"ranking": {"longest": None, "return_last": True, "per_window": 999, "per_video": 9999}}
    full = small(**everything).predict(video).segments
    short = small(**everything, full_windows=False).predict(video).segments
    assert full[:, 1].max() == 0.25 + 0.5 * 101 and short[:, 1].max() < 48.5
    assert full[:, 0].min() == 0.25


def test_nothing_is_proposed_after_a_video_shorter_than_a_window() -> None:
    everything = {"ranking": {"longest": None, "per_window": 999, "per_video": 999}}
    found = small(**everything).predict(clip(20)).segments
    assert found[:, 0].max() <= 0.25 + 0.5 * 19
    published = small(**everything, full_windows=False).predict(clip(20)).segments
    assert published[:, 0].max() > 0.25 + 0.5 * 19


# --- options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temporal_scale": 1}, "temporal_scale: must be at least 2, not 1"),
        ({"max_duration": 49}, r"max_duration: must be at most temporal_scale \(48\)"),
        ({"neighbours": 0}, "neighbours: must be at least 1"),
        ({"min_duration": 16}, r"min_duration: must be below max_duration \(16\)"),
        ({"regression_weight": -1.0}, "regression_weight: must not be negative"),
        ({"kernel_2d": 2}, "kernel_2d: must be odd"),
        ({"attention": -1}, "attention: must be at least 0"),
        ({"windows": "sliding_windows"}, "windows: must be sliding or rescaled"),
        ({"style": 3}, "style: must be 0 or 1 or 2"),
        ({"ranking": {"sigma": 0.0}}, "ranking: sigma: must be above 0"),
        ({"classifier": "svm"}, "classifier: must be none or linear"),
    ],
)
def test_bad_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(**changes)


def test_channels_must_fit_the_groups_of_the_first_convolution() -> None:
    with pytest.raises(InputError, match="in 4 groups, into which 10 channels cannot be divided"):
        small(widths=(6, 4))


def test_attention_needs_sound() -> None:
    with pytest.raises(InputError, match="needs a visual stream and sound"):
        small(attention=1)
