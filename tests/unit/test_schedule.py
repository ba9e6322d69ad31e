"""Order and portions of a training, and the published options of every detector."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from avfusion import detectors
from avfusion.engine import schedule
from avfusion.engine.schedule import (
    TrainingOptions,
    check_schedule,
    chunks,
    draw_order,
    published_training,
)
from avfusion.errors import InputError


def plan(examples: int, **options: Any) -> list[tuple[list[list[int]], bool, bool]]:
    """Chunks of an epoch that goes through `examples` once, in their own order."""
    return [
        ([batch.tolist() for batch in chunk.batches], chunk.steps, chunk.last)
        for chunk in chunks(np.arange(examples), TrainingOptions(passes=1, **options))
    ]


def test_a_chunk_is_what_makes_a_step_and_the_rest_is_dropped() -> None:
    assert plan(8, batch_size=2, accumulate=3) == [
        ([[0, 1], [2, 3], [4, 5]], True, False),
        ([[6, 7]], False, True),
    ]
    assert plan(5, batch_size=2, accumulate=1) == [
        ([[0, 1]], True, False),
        ([[2, 3]], True, False),
        ([[4]], True, True),
    ]


def test_the_first_step_may_follow_the_first_batch() -> None:
    assert plan(5, accumulate=3, step_at="first") == [
        ([[0]], True, False),
        ([[1], [2], [3]], True, False),
        ([[4]], False, True),
    ]


def test_fewer_batches_may_be_computed_at_once_than_make_a_step() -> None:
    assert plan(7, accumulate=5, at_once=2) == [
        ([[0], [1]], False, False),
        ([[2], [3]], False, False),
        ([[4]], True, False),
        ([[5], [6]], False, True),
    ]
    assert [len(batches) for batches, *_ in plan(4, accumulate=2, at_once=9)] == [2, 2]


def test_an_epoch_goes_through_everything_as_often_as_it_should() -> None:
    order = draw_order(7, TrainingOptions(passes=3), np.random.RandomState(0))
    assert np.bincount(order).tolist() == [3] * 7
    assert order[:7].tolist() != sorted(order[:7].tolist())


def test_schedules_that_train_nothing() -> None:
    options = TrainingOptions(passes=2, batch_size=4, accumulate=3)
    with pytest.raises(InputError, match=r"no step would ever be taken: 3 batches make a step, .* has 2 \(4"):
        check_schedule(options, 4, "config")
    check_schedule(options, 5, "config")
    check_schedule(TrainingOptions(passes=1, accumulate=3, step_at="first"), 1, "config")
    with pytest.raises(InputError, match="annotations: no video with features has an instance"):
        check_schedule(options, 0, "config")


def test_what_a_detector_was_published_with(monkeypatch: pytest.MonkeyPatch) -> None:
    assert published_training("muses") == TrainingOptions()
    module = SimpleNamespace(TRAINING={"lr": 4e-5, "optimizer": "adam"})
    monkeypatch.setattr(schedule, "find_detector", lambda *_: module)
    assert published_training("other") == TrainingOptions(lr=4e-5, optimizer="adam")
    module.TRAINING = {"learning_rate": 1}
    with pytest.raises(InputError, match="config: training: unknown option 'learning_rate'"):
        published_training("other")


@pytest.mark.parametrize("name", sorted(detectors.DETECTORS))
def test_every_detector_names_options_that_exist(name: str) -> None:
    assert published_training(name).epochs >= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at_once": 0}, "at_once: must be at least 1 or null"),
        ({"bias_lr": -1.0}, "bias_lr: must not be neg"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**options)
