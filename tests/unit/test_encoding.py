"""Encoding fusion: what stands beside what, and when."""

import numpy as np
import pytest

from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.errors import InputError
from avfusion.fusion.encoding import SCHEMES, fuse

VISUAL = TimeAxis(first=0.64, stride=0.32, window=1.28)
AUDIO = TimeAxis(first=0.48, stride=0.96, window=0.96)


def counted(count: int, axis: TimeAxis = VISUAL, channels: int = 1) -> VideoFeatures:
    """Snippet i holds the value i in every channel."""
    return VideoFeatures(np.repeat(np.arange(count, dtype=np.float32)[:, None], channels, axis=1), axis)


def pairs(scheme: str, visual: int, audio: int) -> list[tuple[float, float]]:
    values = fuse(scheme, counted(visual), counted(audio, AUDIO)).values
    return [(float(row[0]), float(row[1])) for row in values]


def test_concat_puts_snippets_side_by_side() -> None:
    fused = fuse("concat", counted(3, channels=2), counted(3, AUDIO, channels=4))
    assert fused.values.tolist() == [[i] * 6 for i in range(3)]
    assert fused.values.dtype == np.float32
    assert fused.axis == VISUAL


@pytest.mark.parametrize("scheme", ["concat", "rm_attention"])
@pytest.mark.parametrize(("visual", "audio"), [(3, 4), (4, 3)])
def test_unequal_counts_are_named(scheme: str, visual: int, audio: int) -> None:
    with pytest.raises(InputError, match=rf"'{scheme}': {visual} visual and {audio} audio.*aligned"):
        fuse(scheme, counted(visual), counted(audio))


def test_rm_attention_only_puts_side_by_side() -> None:
    fused, plain = (fuse(scheme, counted(3), counted(3, AUDIO)) for scheme in ("rm_attention", "concat"))
    np.testing.assert_array_equal(fused.values, plain.values)


def test_dup_trim_repeats_the_picture() -> None:
    assert pairs("dup_trim", 2, 5) == [(0, 0), (0, 1), (1, 2), (1, 3)]
    fused = fuse("dup_trim", counted(2), counted(5, AUDIO))
    # The cell of snippet 0 is 0.48 to 0.80 s; its halves are centred at 0.56 and 0.72 s.
    np.testing.assert_allclose(fused.axis.centres(4), [0.56, 0.72, 0.88, 1.04], rtol=0, atol=1e-12)
    assert fused.axis.stride == pytest.approx(0.16)
    assert fused.axis.window == VISUAL.window
    assert fused.axis.origin == pytest.approx(VISUAL.origin)


def test_dup_trim_repeats_the_sound() -> None:
    assert pairs("dup_trim", 7, 3) == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]
    assert fuse("dup_trim", counted(7), counted(3, AUDIO)).axis == VISUAL


def test_dup_trim_of_equal_lengths_is_concat() -> None:
    fused, plain = (fuse(scheme, counted(3), counted(3, AUDIO)) for scheme in ("dup_trim", "concat"))
    np.testing.assert_array_equal(fused.values, plain.values)
    np.testing.assert_allclose(fused.axis.centres(3), plain.axis.centres(3), rtol=0, atol=1e-12)


def test_avg_trim_steps_by_two_whatever_the_ratio() -> None:
    assert pairs("avg_trim", 3, 6) == [(0, 0.5), (1, 2.5), (2, 4.5)]
    assert pairs("avg_trim", 4, 4) == [(0, 0), (1, 2)]  # half of the video is gone
    assert pairs("avg_trim", 2, 6) == [(0, 1), (1, 3)]  # the last two audio snippets are never used
    assert fuse("avg_trim", counted(2), counted(6, AUDIO)).axis == VISUAL


def test_avg_trim_refuses_what_was_nan() -> None:
    with pytest.raises(InputError, match=r"'avg_trim': 4 visual and 3 audio"):
        fuse("avg_trim", counted(4), counted(3))


@pytest.mark.parametrize(("visual", "audio"), [(2, 5), (3, 7), (4, 4), (5, 2), (7, 3), (1, 6), (6, 1)])
def test_dup_trim_mended_loses_nothing_and_stays_together(visual: int, audio: int) -> None:
    seen, heard = np.array(pairs("dup_trim_mended", visual, audio)).T
    assert len(seen) == max(visual, audio)
    assert set(seen) == set(range(visual)) and set(heard) == set(range(audio))
    # Each side has come equally far, to less than one of its snippets.
    assert (np.abs(seen / visual - heard / audio) < 1 / min(visual, audio)).all()
    axis = fuse("dup_trim_mended", counted(visual), counted(audio, AUDIO)).axis
    assert axis.origin == pytest.approx(VISUAL.origin)
    assert axis.stride * len(seen) == pytest.approx(VISUAL.stride * visual)


@pytest.mark.parametrize(("visual", "audio"), [(3, 6), (2, 6), (4, 4), (2, 4)])
def test_avg_trim_mended_is_a_partition(visual: int, audio: int) -> None:
    ratio = audio // visual
    wanted = [(j, j * ratio + (ratio - 1) / 2) for j in range(visual)]
    assert pairs("avg_trim_mended", visual, audio) == wanted


def test_avg_trim_mended_uses_all_the_sound_or_the_nearest() -> None:
    assert pairs("avg_trim_mended", 2, 5) == [(0, 0.5), (1, 3)]
    assert pairs("avg_trim_mended", 5, 2) == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1)]
    assert fuse("avg_trim_mended", counted(5), counted(2, AUDIO)).axis == VISUAL


def test_aligned_puts_the_sound_where_it_was_heard() -> None:
    """Snippet i of the sound holds its own centre in seconds; so must it beside every visual snippet."""
    for axis in (AUDIO, TimeAxis(0.05, 0.1, 0.96), TimeAxis(-0.31, 0.32, 0.5), TimeAxis(0.1, 0.23, 0.2)):
        count = int(np.ceil(12 / axis.stride))
        sound = VideoFeatures(axis.centres(count).astype(np.float32)[:, None], axis)
        fused = fuse("aligned", counted(30), sound)
        assert fused.axis == VISUAL
        centres = VISUAL.centres(30)
        inner = (centres > axis.first + VISUAL.stride) & (centres < axis.first + 12 - VISUAL.stride)
        assert inner.sum() > 25
        np.testing.assert_allclose(fused.values[inner, 1], centres[inner], rtol=0, atol=1e-5)


def test_aligned_on_one_grid_is_concat() -> None:
    fused, plain = (fuse(scheme, counted(5), counted(5)) for scheme in ("aligned", "concat"))
    np.testing.assert_allclose(fused.values, plain.values, rtol=0, atol=1e-6)


def test_aligned_hears_nothing_where_there_is_no_sound() -> None:
    sound = VideoFeatures(np.ones((2, 1), dtype=np.float32), TimeAxis(first=1.5, stride=1.0, window=1.0))
    fused = fuse("aligned", counted(6, TimeAxis(first=0.5, stride=1.0, window=1.0)), sound)
    assert fused.values[:, 1].tolist() == [0, 1, 1, 0, 0, 0]
    later = VideoFeatures(sound.values, TimeAxis(first=99.5, stride=1.0, window=1.0))
    with pytest.raises(InputError, match=r"'aligned': 3 visual and 2 audio.*no time in common"):
        fuse("aligned", counted(3), later)


def test_unknown_scheme_and_empty_streams() -> None:
    with pytest.raises(InputError, match="'sum': no such scheme; known: concat, dup_trim, avg_trim"):
        fuse("sum", counted(1), counted(1))
    for scheme in SCHEMES:
        for visual, audio in [(0, 3), (3, 0), (0, 0)]:
            with pytest.raises(InputError, match=f"{visual} visual and {audio} audio"):
                fuse(scheme, counted(visual), counted(audio))


def test_the_inputs_are_left_alone() -> None:
    for scheme in SCHEMES:
        visual, audio = counted(2), counted(2)
        fused = fuse(scheme, visual, audio)
        fused.values[:] = 9
        assert visual.values.tolist() == audio.values.tolist() == [[0], [1]]


def test_joined_features_know_the_widths_of_their_streams() -> None:
    fused = fuse("concat", counted(3, channels=2), counted(3, channels=4))
    assert fused.widths == (2, 4)
    assert counted(3, channels=2).widths == (2,)
