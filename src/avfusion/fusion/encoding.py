"""Encoding fusion: features of two streams joined before the detector sees them.

The schemes of "Hear Me Out" (tal-hmo, `modular_fusion.py`) work by *counts* of snippets: they take for
granted that both streams cover the same time. The time axis of the result therefore follows from the visual
one alone. With Tv visual and Ta audio snippets:

================ ========= ================================= ==========================================
scheme           needs     snippets of the result            time axis of the result
================ ========= ================================= ==========================================
concat           Ta = Tv   Tv                                the visual one
rm_attention     Ta = Tv   Tv                                the visual one
dup_trim         Ta >= Tv  Tv r with r = Ta // Tv            the visual one, its cells divided into r
dup_trim         Ta < Tv   Ta r with r = Tv // Ta            the visual one
avg_trim         Ta >= Tv  min(Tv, ceil(Ta / 2))             the visual one
dup_trim_mended            max(Tv, Ta)                       the visual one, divided into Ta / Tv if above 1
avg_trim_mended            Tv                                the visual one
aligned                    Tv                                the visual one
================ ========= ================================= ==========================================

``dup_trim`` and ``avg_trim`` are as published, with their quirks; ``_mended`` are ours. ``rm_attention`` puts
the streams side by side and leaves it to the detector to join them (`avfusion.fusion.attention`). ``aligned``
is ours and goes by time stamps (`avfusion.fusion.resample`).

A new scheme is a function of two `VideoFeatures` in the table `SCHEMES`.
"""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from avfusion.data.features import TimeAxis, VideoFeatures
from avfusion.errors import InputError, known_names
from avfusion.fusion.resample import covered, resample

Scheme = Callable[[VideoFeatures, VideoFeatures], VideoFeatures]


def fuse(scheme: str, visual: VideoFeatures, audio: VideoFeatures) -> VideoFeatures:
    """Join the features of one video: (Tv, Cv) and (Ta, Ca) to (T, Cv + Ca), visual channels first.

    Args:
        scheme: a name in `SCHEMES`.

    Raises:
        InputError: an unknown scheme, a stream without snippets, or lengths that the scheme cannot join.
    """
    if scheme not in SCHEMES:
        raise InputError(f"fusion '{scheme}'", f"no such scheme{known_names(scheme, SCHEMES)}")
    if not (len(visual.values) and len(audio.values)):
        raise _lengths(scheme, visual, audio, "a stream without snippets cannot be fused")
    return SCHEMES[scheme](visual, audio)


def concat(visual: VideoFeatures, audio: VideoFeatures) -> VideoFeatures:
    """Snippet i beside snippet i; both streams must have equally many."""
    return _side_by_side("concat", visual, audio)


def rm_attention(visual: VideoFeatures, audio: VideoFeatures) -> VideoFeatures:
    """As `concat`: the detector's attention joins snippet i of both streams."""
    return _side_by_side("rm_attention", visual, audio)


def dup_trim(visual: VideoFeatures, audio: VideoFeatures) -> VideoFeatures:
    """Repeat the snippets of the shorter stream floor(ratio) times, then cut both to the shorter length.

    As published: with a ratio of 5:2 the repeated stream falls behind, and the tail of the other is lost.
    """
    if len(audio.values) >= len(visual.values):
        ratio = len(audio.values) // len(visual.values)
        axis = _divided(visual.axis, ratio)
        return _joined(visual, audio, np.repeat(visual.values, ratio, axis=0), audio.values, axis)
    ratio = len(visual.values) // len(audio.values)
    return _joined(visual, audio, visual.values, np.repeat(audio.values, ratio, axis=0), visual.axis)


def dup_trim_mended(visual: VideoFeatures, audio: VideoFeatures) -> VideoFeatures:
    """Repeat the snippets of the shorter stream evenly, so that nothing is lost and nothing falls behind.

    Snippet j of n stands beside snippet floor(j m / n) of the shorter stream's m.
    """
    count, heard = len(visual.values), len(audio.values)
    longer = max(count, heard)
    steps = np.arange(longer)
    axis = _divided(visual.axis, longer / count)
    return _joined(
        visual, audio, visual.values[steps * count // longer], audio.values[steps * heard // longer], axis
    )


def avg_trim(visual: VideoFeatures, audio: VideoFeatures) -> VideoFeatures:
    """Average r = Ta // Tv audio snippets from every *second* one on, then cut both to the shorter length.

    As published: the windows step by 2 whatever r is. So they are a partition for r = 2 only; for r = 1
    every other audio snippet is left out and half of the video is cut off; for r >= 3 windows overlap and
    only the first 2 Tv + r - 2 audio snippets are used, sound running slower than the picture. Where audio
    is the shorter one the published code gives NaN; here it is an error.
    """
    if len(audio.values) < len(visual.values):
        advice = "it averages audio, which must have at least as many: choose avg_trim_mended or dup_trim"
        raise _lengths("avg_trim", visual, audio, advice)
    ratio = len(audio.values) // len(visual.values)
    windows = sliding_window_view(audio.values.astype(np.float32, copy=False), ratio, axis=0)[::2]
    count = min(len(windows), len(visual.values))
    mean = windows[:count].mean(axis=-1, dtype=np.float32)
    return _joined(visual, audio, visual.values, mean, visual.axis)


def avg_trim_mended(visual: VideoFeatures, audio: VideoFeatures) -> VideoFeatures:
    """Average the audio snippets floor(j Ta / Tv) up to, without, floor((j + 1) Ta / Tv) for snippet j.

    A partition of all the sound: runs of r snippets if Ta = r Tv, else of r and r + 1. Where audio is the
    shorter one every run is the one snippet that it begins with.
    """
    count, heard = len(visual.values), len(audio.values)
    edges = np.arange(count + 1) * heard // count
    begins, lengths = edges[:-1], np.maximum(np.diff(edges), 1)
    sums = audio.values[begins]
    if heard > count:
        sums = np.add.reduceat(audio.values, begins, axis=0, dtype=np.float32)
    mean = sums / lengths[:, None].astype(np.float32)
    return _joined(visual, audio, visual.values, mean, visual.axis)


def aligned(visual: VideoFeatures, audio: VideoFeatures) -> VideoFeatures:
    """Every visual snippet with the sound of the same seconds, whatever strides, windows and starts are.

    What lies outside of the time that the sound covers hears zeros, as a video without sound does.
    """
    count = len(visual.values)
    there = covered(audio, visual.axis.centres(count))
    if not there.any():
        spans = (f"{a.axis.origin:.2f} to {a.axis.end(len(a.values)):.2f} s" for a in (visual, audio))
        advice = "picture ({}) and sound ({}) have no time in common: check their time axes".format(*spans)
        raise _lengths("aligned", visual, audio, advice)
    heard = np.where(there[:, None], resample(audio, visual.axis, count), np.float32(0))
    return _joined(visual, audio, visual.values, heard, visual.axis)


SCHEMES: dict[str, Scheme] = {
    "concat": concat,
    "dup_trim": dup_trim,
    "avg_trim": avg_trim,
    "rm_attention": rm_attention,
    "aligned": aligned,
    "dup_trim_mended": dup_trim_mended,
    "avg_trim_mended": avg_trim_mended,
}
EQUAL_COUNTS = ("concat", "rm_attention")  # schemes that need as many snippets of one stream as of the other


def _side_by_side(scheme: str, visual: VideoFeatures, audio: VideoFeatures) -> VideoFeatures:
    if len(visual.values) != len(audio.values):
        advice = "it needs equally many: extract the audio on the visual grid, or choose aligned or dup_trim"
        raise _lengths(scheme, visual, audio, advice)
    return _joined(visual, audio, visual.values, audio.values, visual.axis)


def _divided(axis: TimeAxis, ratio: float) -> TimeAxis:
    """`axis` with its cells divided into `ratio`, from the same origin on."""
    stride = axis.stride / ratio
    return TimeAxis(first=axis.origin + stride / 2, stride=stride, window=axis.window)


def _joined(
    visual: VideoFeatures, audio: VideoFeatures, seen: np.ndarray, heard: np.ndarray, axis: TimeAxis
) -> VideoFeatures:
    count = min(len(seen), len(heard))
    values = np.concatenate([seen[:count], heard[:count]], axis=1, dtype=np.float32, casting="same_kind")
    return VideoFeatures(values, axis, visual.widths + audio.widths)


def _lengths(scheme: str, visual: VideoFeatures, audio: VideoFeatures, advice: str) -> InputError:
    counts = f"{len(visual.values)} visual and {len(audio.values)} audio snippets"
    return InputError(f"fusion '{scheme}'", f"{counts}: {advice}")
