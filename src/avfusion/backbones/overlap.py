"""Features of overlapping windows through I3D, without computing what neighbours share more than once.

A window of 64 frames every 8 shares 56 of them with the next. Early layers see few frames at a time: away
from a window's ends, where padding shows, their outputs are those of one long clip. So the long clip goes
through the early layers once, each window adds its own ends, and only where the ends have grown so long
that nothing is saved are the windows cut out and sent on one by one. The same sums, in another order: equal
to running every window alone but for rounding (and no approximation, as leaving the padding out would be).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avfusion.backbones.i3d import I3D, MaxPool, Mixed, Padding, Unit3D, pads_of

Layer = Unit3D | MaxPool


@dataclass(frozen=True)
class Layout:
    """Which steps of a window are shared with a long clip, before some layer.

    Attributes:
        steps: of one window.
        stride: steps from a window to the next.
        front: first steps of a window, which its padding has reached; not shared.
        back: last ones, likewise.
    """

    steps: int
    stride: int
    front: int = 0
    back: int = 0

    @property
    def shared(self) -> int:
        """Steps of a window that stand in the long clip."""
        return self.steps - self.front - self.back

    @property
    def saves(self) -> bool:
        """Whether a window costs fewer steps than it has."""
        return self.shared > self.stride

    def behind(self, kernel: int, stride: int, padding: Padding) -> "Layout | None":
        """The layout behind a layer; None where windows and strides do not match or nothing is left."""
        if self.steps % stride or self.stride % stride:
            return None
        before, _ = pads_of(padding, self.steps, kernel, stride)
        steps = self.steps // stride
        first = -(-(self.front + before) // stride)
        last = (self.steps - self.back - kernel + before) // stride
        layout = Layout(steps, self.stride // stride, first, steps - 1 - last)
        return layout if layout.shared > 0 else None


@dataclass(frozen=True)
class Windows:
    """Activations of B overlapping windows.

    Attributes:
        layout: of every window.
        inner: (1, C, (B - 1) * stride + shared, H, W), the shared steps of all windows.
        front: (B, C, front, H, W), the first steps of each.
        back: (B, C, back, H, W), the last steps of each.
    """

    layout: Layout
    inner: Tensor
    front: Tensor
    back: Tensor

    @classmethod
    def of(cls, clip: Tensor, window: int, stride: int) -> "Windows":
        """All windows of `window` frames, every `stride`, of a clip (C, T, H, W)."""
        count = window_count(clip.shape[1], window, stride)
        none = clip.new_empty((count, clip.shape[0], 0, *clip.shape[2:]))
        return cls(Layout(window, stride), clip[None], none, none)

    def part(self, begin: int, end: int) -> Tensor:
        """Steps begin..end of every window, (B, C, end - begin, H, W)."""
        layout, count = self.layout, len(self.front)
        tail = layout.steps - layout.back
        low, high = max(begin, layout.front), min(end, tail)
        pieces = [self.front[:, :, begin : min(end, layout.front)]]
        if low < high:
            span = (count - 1) * layout.stride + high - low
            cut = self.inner.narrow(2, low - layout.front, span).unfold(2, high - low, layout.stride)
            pieces.append(cut[0].permute(1, 0, 4, 2, 3))
        pieces.append(self.back[:, :, max(begin - tail, 0) : max(end - tail, 0)])
        pieces = [piece for piece in pieces if piece.shape[2]]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)

    def whole(self) -> Tensor:
        """Every window, (B, C, steps, H, W)."""
        return self.part(0, self.layout.steps)

    def through(self, layer: Layer) -> "Windows":
        """The windows behind a layer."""
        kernel, stride = layer.temporal
        if kernel == 1:
            return self._map(layer)
        layout = self.layout.behind(kernel, stride, layer.padding)
        assert layout is not None
        before, after = pads_of(layer.padding, self.layout.steps, kernel, stride)
        shared = (len(self.front) - 1) * layout.stride + layout.shared
        begin = layout.front * stride - before - self.layout.front
        inner = layer(self.inner.narrow(2, begin, (shared - 1) * stride + kernel), (0, 0))
        front = back = inner.new_empty((len(self.front), inner.shape[1], 0, *inner.shape[3:]))
        if layout.front:
            front = layer(self.part(0, (layout.front - 1) * stride - before + kernel), (before, 0))
        if layout.back:
            begin = (layout.steps - layout.back) * stride - before
            back = layer(self.part(begin, self.layout.steps), (0, after))
        return Windows(layout, inner, front, back)

    def cut(self, front: int, back: int) -> "Windows":
        """The same windows with longer ends of their own."""
        layout = Layout(self.layout.steps, self.layout.stride, front, back)
        span = (len(self.front) - 1) * layout.stride + layout.shared
        inner = self.inner.narrow(2, front - self.layout.front, span)
        ends = [
            self.part(begin, begin + size) if size else self.front[:, :, :0]
            for begin, size in ((0, front), (layout.steps - back, back))
        ]
        return Windows(layout, inner, *ends)

    def _map(self, layer: Callable[[Tensor], Tensor]) -> "Windows":
        inner = layer(self.inner)
        none = inner.new_empty((len(self.front), inner.shape[1], 0, *inner.shape[3:]))
        ends = [layer(end) if end.shape[2] else none for end in (self.front, self.back)]
        return Windows(self.layout, inner, *ends)


def window_count(frames: int, window: int, stride: int) -> int:
    """Whole windows in a clip.

    Raises:
        ValueError: the clip does not end with a window.
    """
    if frames < window or (frames - window) % stride:
        raise ValueError(f"{frames} frames are not whole windows of {window} every {stride}")
    return (frames - window) // stride + 1


def window_features(network: I3D, clips: Sequence[Tensor], window: int, stride: int) -> Tensor:
    """`I3D.extract_features` of all windows of some clips; what windows of a clip share is computed once.

    Args:
        network: in evaluation mode.
        clips: each (in_channels, T, H, W) with ``T = (n - 1) * stride + window`` for its n windows; H and W
            are those of all.
        window: frames of a window.
        stride: frames from a window to the next.

    Returns:
        (windows of all clips, channels), those of a clip one after the other.
    """
    together = shared_layers(network, window, stride)
    parts = [_early(network, clip, window, stride, together) for clip in clips]
    x = parts[0] if len(parts) == 1 else torch.cat(parts)
    del parts
    for name in network.endpoints[together:]:
        x = network.get_submodule(name)(x)
    return network.pooled(x, network.endpoint)


def shared_layers(network: I3D, window: int, stride: int) -> int:
    """How many of a network's first end points are cheaper to compute for all windows together."""
    layout, best = Layout(window, stride), 0
    for index, name in enumerate(network.endpoints):
        kernel, step, padding = _in_time(network.get_submodule(name))
        behind = layout.behind(kernel, step, padding)
        if behind is None or not behind.saves:
            break
        layout, best = behind, index + 1
    return best


def _early(network: I3D, clip: Tensor, window: int, stride: int, layers: int) -> Tensor:
    windows = Windows.of(clip, window, stride)
    names = network.endpoints[:layers]
    if len(windows.front) == 1:  # nothing to share
        x = windows.whole()
        for name in names:
            x = network.get_submodule(name)(x)
        return x
    for name in names:
        layer = network.get_submodule(name)
        windows = (
            _through_mixed(windows, layer) if isinstance(layer, Mixed) else windows.through(_known(layer))
        )
    return windows.whole()


def _through_mixed(windows: Windows, block: Mixed) -> Windows:
    branches = [
        windows.through(block.b0),
        windows.through(block.b1a).through(block.b1b),
        windows.through(block.b2a).through(block.b2b),
        windows.through(block.b3a).through(block.b3b),
    ]
    ends = [max(getattr(branch.layout, end) for branch in branches) for end in ("front", "back")]
    branches = [branch.cut(*ends) for branch in branches]
    joined = [torch.cat([getattr(b, name) for b in branches], dim=1) for name in ("inner", "front", "back")]
    return Windows(branches[0].layout, *joined)


def _in_time(layer: torch.nn.Module) -> tuple[int, int, Padding]:
    """Kernel, stride and padding of a layer along time."""
    known = layer.b1b if isinstance(layer, Mixed) else _known(layer)
    return *known.temporal, known.padding


def _known(layer: torch.nn.Module) -> Layer:
    assert isinstance(layer, Unit3D | MaxPool)
    return layer
