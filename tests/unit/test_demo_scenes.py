"""The script of the demo dataset: what it promises about classes, distractors, boundaries and seeds."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from avfusion.demo.config import DemoConfig, exact_frame_rate
from avfusion.demo.scenes import ACTIONS, LABELS, Span, annotations, plan
from avfusion.errors import InputError

CONFIG = DemoConfig()


@pytest.fixture(scope="module")
def scenes():
    return plan(CONFIG, seed=3)


def test_one_seed_gives_one_plan_and_another_seed_another(scenes):
    assert plan(CONFIG, seed=3) == scenes
    other = plan(CONFIG, seed=4)
    assert other.keys() == scenes.keys()
    assert not any(other[name].events == scenes[name].events for name in scenes)


def test_more_test_videos_leave_the_training_subset_as_it_was(scenes):
    larger = plan(replace(CONFIG, test_videos=CONFIG.test_videos + 3), seed=3)
    assert len(larger) == len(scenes) + 3
    assert all(larger[name] == scene for name, scene in scenes.items())


def test_fingerprints_tell_scenes_apart(scenes):
    assert len({scene.fingerprint() for scene in scenes.values()}) == len(scenes)
    assert (
        replace(scenes["demo_test_0000"], noise=3.0).fingerprint() != scenes["demo_test_0000"].fingerprint()
    )


def test_events_follow_one_another_inside_the_video(scenes):
    for scene in scenes.values():
        assert CONFIG.duration[0] - 0.1 < scene.duration < CONFIG.duration[1] + 0.1
        edges = [0.0, *(edge for event in scene.events for edge in (event.start, event.end)), scene.duration]
        assert edges == sorted(edges)
        for event in scene.events:
            assert CONFIG.instance[0] - 0.01 <= event.end - event.start <= CONFIG.instance[1] + 0.01


def test_only_an_action_both_moves_and_sounds(scenes):
    kinds = Counter()
    for scene in scenes.values():
        for event in scene.events:
            kinds[event.kind] += 1
            assert (event.sight is not None) == (event.kind in ("action", "silent"))
            assert (event.sound is not None) == (event.kind in ("action", "offscreen"))
    share = CONFIG.silent_motion / (1 + CONFIG.silent_motion + CONFIG.offscreen_sound)
    assert kinds["silent"] / kinds.total() == pytest.approx(share, abs=0.05)


def test_one_modality_switches_and_the_other_fades_around_the_same_boundary(scenes):
    for scene in scenes.values():
        for event in scene.events:
            for modality, span in (("sight", event.sight), ("sound", event.sound)):
                if span is not None:
                    assert (span.start, span.end) == (event.start, event.end)
                    assert (span.ramp == 0) == (modality == event.action.crisp)


def test_span_level():
    span = Span(start=2.0, end=6.0, ramp=1.0)
    levels = span.level(np.array([1.4, 1.75, 2.0, 2.5, 4.0, 6.0, 6.6]))
    np.testing.assert_allclose(levels, [0, 0.25, 0.5, 1, 1, 0.5, 0])
    np.testing.assert_array_equal(
        Span(2.0, 6.0, 0.0).level(np.array([1.999, 2.001, 5.999, 6.001])), [0, 1, 1, 0]
    )


def test_classes_come_in_pairs_that_one_modality_cannot_tell_apart():
    def alike(*parts):
        return Counter(tuple(getattr(action, part) for part in parts) for action in ACTIONS)

    assert len(LABELS) == len(set(LABELS)) == 8
    assert max(alike("sprite", "motion", "sound").values()) == 1
    assert sorted(alike("sprite", "motion").values()) == [1, 1, 1, 1, 2, 2]  # look and move alike
    assert sorted(alike("sound").values()) == [2, 2, 2, 2]  # sound alike
    assert sorted(alike("motion", "sound").values()) == [1, 1, 1, 1, 1, 1, 2]  # only appearance differs
    assert sorted(alike("sprite", "sound").values()) == [1, 1, 1, 1, 1, 1, 2]  # only motion differs


def test_annotations_are_the_actions_and_no_distractor(scenes):
    annotated = annotations(scenes)
    assert annotated.labels == LABELS
    assert annotated.subsets == {"train": CONFIG.train_videos, "test": CONFIG.test_videos}
    for name, scene in scenes.items():
        expected = [(e.start, e.end, e.label) for e in scene.events if e.kind == "action"]
        assert [(i.start, i.end, i.label) for i in annotated.videos[name].instances] == expected
        assert expected
        assert annotated.videos[name].duration == scene.duration
    for subset in ("train", "test"):
        counts = Counter(
            i.label for video in annotated.subset(subset).videos.values() for i in video.instances
        )
        assert max(counts.values()) - min(counts.values()) <= 1


def test_every_format_comes_up_in_both_subsets(scenes):
    for subset in ("train", "test"):
        inside = [scene for scene in scenes.values() if scene.subset == subset]
        assert {scene.fps for scene in inside} == {25, 30, 24, Fraction(24000, 1001)}
        assert {(s.sample_rate, s.channels) for s in inside} == {
            (rate, channels) for rate in CONFIG.sample_rates for channels in (1, 2)
        }
        assert {(scene.width, scene.height) for scene in inside} == set(CONFIG.sizes)


def test_a_video_without_room_for_distractors_still_has_an_action():
    short = DemoConfig(
        duration=(4.0, 4.0), instance=(2.0, 2.4), gap=(0.5, 0.6), silent_motion=9, offscreen_sound=9
    )
    assert all(any(e.kind == "action" for e in s.events) for s in plan(short, seed=0).values())


@pytest.mark.parametrize(
    ("fps", "exact"),
    [(25, 25), (23.976, Fraction(24000, 1001)), (29.97, Fraction(30000, 1001)), (12.5, Fraction(25, 2))],
)
def test_exact_frame_rate(fps, exact):
    assert exact_frame_rate(fps) == exact


def test_options_from_yaml_values():
    config = DemoConfig.from_mapping(
        {"duration": [10, 12], "sizes": [[64, 48]], "noise": 3, "train_videos": 2}
    )
    assert config == DemoConfig(duration=(10.0, 12.0), sizes=((64, 48),), noise=3.0, train_videos=2)
    assert isinstance(config.noise, float) and isinstance(config.sizes[0][0], int)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"nose": 3}, "nose"),
        ({"noise": "loud"}, "noise"),
        ({"noise": True}, "noise"),
        ({"noise": -1}, "noise"),
        ({"noise": float("nan")}, "noise"),
        ({"duration": 30}, "duration"),
        ({"duration": [40, 30]}, "duration"),
        ({"duration": [3, 30]}, "duration"),
        ({"instance": [0, 3]}, "instance"),
        ({"gap": [1]}, "gap"),
        ({"train_videos": 0}, "train_videos"),
        ({"train_videos": 2.5}, "train_videos"),
        ({"channels": [3]}, "channels"),
        ({"radius": [0.1, 0.5]}, "radius"),
        ({"loudness": [0, -6]}, "loudness"),
        ({"frame_rates": []}, "frame_rates"),
        ({"sizes": [[95, 72]]}, "sizes"),
        ({"sizes": [96, 72]}, "sizes"),
    ],
)
def test_an_impossible_option_is_refused_by_name(values, field):
    with pytest.raises(InputError, match=rf"^demo.yaml: media.*\b{field}\b"):
        DemoConfig.from_mapping(values, "demo.yaml")
