"""Residual multimodal attention (RM attention): encoding fusion that a detector learns.

One block takes what is seen, v, and what is heard, a, both (..., W), to

    m = (U_v(v) + U_a(a)) / 2,   v' = tanh(a + m),   a' = tanh(v + m)

with a network of two linear layers for each of U_v and U_a. The residuals are crossed, as published. Further
blocks take v' and a' and share the weights of the first; the result is (v + a) / 2 of the last block. Sound
has fewer channels than the picture and is filled up with zeros at the end.

A detector owns the layers, under the names that published checkpoints have at its top level::

    self.U_v, self.U_a = attention_layers(width), attention_layers(width)  # P-GCN: U_v512, U_v1536, ...
    ...
    fused = attend(self.U_v, self.U_a, features[..., :width], features[..., width:], options.attention)

Source: ``TBMRF_block`` of "Hear Me Out" (tal-hmo), after Duan et al., "Audio-Visual Event Localization via
Recursive Fusion by Joint Co-Attention" (WACV 2021). Initial weights are torch's own for linear layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from avfusion.errors import InputError

TOO_FEW = "needs a visual stream and sound: give the experiment an audio stream and the fusion rm_attention"


def attention_layers(width: int) -> nn.Sequential:
    """One of the two networks of a block, (..., width) to (..., width); layers 0 and 2 hold its weights."""
    return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))


def attend(
    visual_layers: nn.Module, sound_layers: nn.Module, visual: Tensor, sound: Tensor, blocks: int
) -> Tensor:
    """What is seen and heard as one.

    Args:
        visual_layers: U_v, see `attention_layers`.
        sound_layers: U_a, of the same width.
        visual: (..., W); not changed in place.
        sound: (..., C) with C <= W, of the same snippets.
        blocks: how often the block is applied, always with these weights; published 1.

    Returns:
        (..., W).
    """
    sound = functional.pad(sound, (0, visual.shape[-1] - sound.shape[-1]))
    for _ in range(blocks):
        mean = (visual_layers(visual) + sound_layers(sound)) / 2
        visual, sound = torch.tanh(sound + mean), torch.tanh(visual + mean)
    return (visual + sound) / 2


def attended_width(widths: Sequence[int], field: str = "attention") -> int:
    """Channels of the picture, which attention keeps: the first of `widths`; the rest are sound.

    The scheme ``rm_attention`` of `avfusion.fusion.encoding` counts all visual streams as one.

    Raises:
        InputError: there is one stream only, or the sound is wider than the picture.
    """
    if len(widths) < 2:
        raise InputError("config", TOO_FEW, field)
    visual, sound = widths[0], sum(widths[1:])
    if sound > visual:
        problem = f"the sound has {sound} channels, which must not be more than the {visual} of the picture"
        raise InputError("config", problem, field)
    return visual
