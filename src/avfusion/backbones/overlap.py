"""Features of overlapping windows through I3D, without computing what neighbours share more than once.

A window of 64 frames every 8 shares 56 of them with the next. Early layers see few frames at a time: away
from a window's ends, where padding shows, their outputs are those of one long clip. So the long clip goes
through the early layers once, each window adds its own ends, and only where the ends have grown so long
that nothing is saved are the windows cut out and sent on one by one. The same sums, in another order: equal
to running every window alone but for rounding (and no approximation, as leaving the padding out would be).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avfusion.backbones.i3d import I3D, MaxPool, Mixed, Padding, Pads, Unit3D, pads_of

Layer = Unit3D | MaxPool | Mixed
Prepared = Callable[[Tensor], Tensor]
# Numbers that a layer puts out at a time on a CPU: 28 MiB, which stay in its cache, and which the allocator
# of memory has at hand; it fetches larger blocks from the system, page by page, each time.
AT_ONCE = 7 * 2**20


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

    def groups(self, count: int) -> "list[Windows]":
        """The same in groups of `count` windows, the last one smaller."""
        layout = self.layout
        result: list[Windows] = []
        for front, back in zip(self.front.split(count), self.back.split(count), strict=True):
            length = (len(front) - 1) * layout.stride + layout.shared
            inner = self.inner.narrow(2, len(result) * count * layout.stride, length)
            result.append(Windows(layout, inner, front, back))
        return result

    def through(
        self, layers: Sequence[Layer], at_once: int | None = None, prepared: Prepared | None = None
    ) -> "Windows":
        """The windows behind some layers, of which only the first looks at other steps.

        Args:
            layers: one behind the other.
            at_once: numbers that a layer may put out at a time; None: any.
            prepared: makes of steps what the first layer takes.
        """
        first, *others = layers
        kernel, stride = first.temporal
        layout = self.layout.behind(kernel, stride, first.padding)
        assert layout is not None and all(layer.temporal[0] == 1 for layer in others)
        before, after = pads_of(first.padding, self.layout.steps, kernel, stride)
        steps = self.inner.shape[2] if at_once is None else max(1, at_once // first.volume(self.inner))

        def apply(x: Tensor, pads: Pads) -> Tensor:
            x = first(x if prepared is None else prepared(x), pads)
            for layer in others:
                x = layer(x)
            return x

        def ends(begin: int, end: int, pads: Pads) -> Tensor:
            groups = [self] if at_once is None else self.groups(max(1, steps // (layout.front + layout.back)))
            found = (apply(group.part(begin, end), pads) for group in groups)
            return _joined(found, [len(group.front) for group in groups], 0)

        begin = layout.front * stride - before - self.layout.front
        whole = (len(self.front) - 1) * layout.stride + layout.shared
        spans = [(i, min(steps, whole - i)) for i in range(0, whole, steps)]
        seen = (self.inner.narrow(2, begin + i * stride, (count - 1) * stride + kernel) for i, count in spans)
        if at_once is not None:  # once for all layers that read it
            seen = (x.contiguous() for x in seen)
        inner = _joined((apply(x, (0, 0)) for x in seen), [count for _, count in spans], 2)
        front = back = inner.new_empty((len(self.front), inner.shape[1], 0, *inner.shape[3:]))
        if layout.front:
            front = ends(0, (layout.front - 1) * stride - before + kernel, (before, 0))
        if layout.back:
            back = ends((layout.steps - layout.back) * stride - before, self.layout.steps, (0, after))
        return Windows(layout, inner, front, back)


def _joined(parts: Iterable[Tensor], lengths: Sequence[int], dim: int) -> Tensor:
    """The parts one behind the other, without holding them all."""
    if len(lengths) == 1:
        (whole,) = parts
        return whole
    result, place = None, 0
    for part, length in zip(parts, lengths, strict=True):
        if result is None:
            shape = list(part.shape)
            shape[dim] = sum(lengths)
            result = part.new_empty(shape)
        result.narrow(dim, place, length).copy_(part)
        place += length
    assert result is not None
    return result


def window_count(frames: int, window: int, stride: int) -> int:
    """Whole windows in a clip.

    Raises:
        ValueError: the clip does not end with a window.
    """
    if frames < window or (frames - window) % stride:
        raise ValueError(f"{frames} frames are not whole windows of {window} every {stride}")
    return (frames - window) // stride + 1


def window_features(
    network: I3D, clips: Sequence[Tensor], window: int, stride: int, prepared: Prepared | None = None
) -> Tensor:
    """`I3D.extract_features` of all windows of some clips; what windows of a clip share is computed once.

    Args:
        network: in evaluation mode.
        clips: each (in_channels, T, H, W) with ``T = (n - 1) * stride + window`` for its n windows; H and W
            are those of all.
        window: frames of a window.
        stride: frames from a window to the next.
        prepared: makes of some frames, (B, in_channels, T, H, W), what the network takes; so that the whole
            clips need not be held in that form.

    Returns:
        (windows of all clips, channels), those of a clip one after the other.
    """
    together = shared_layers(network, window, stride)
    if prepared is not None and not together:
        clips, prepared = [prepared(clip[None])[0] for clip in clips], None
    at_once = AT_ONCE if clips[0].device.type == "cpu" else None
    values = []
    if at_once is None:  # all windows as one batch
        early = [_early(network, clip, window, stride, together, None, prepared).whole() for clip in clips]
        return _late(network, early[0] if len(early) == 1 else torch.cat(early), together)
    for clip in clips:
        windows = _early(network, clip, window, stride, together, at_once, prepared)
        one = windows.inner[0, :, 0].numel() * windows.layout.steps
        groups = windows.groups(max(1, at_once // one))
        values += [_late(network, group.whole(), together) for group in groups]
    return torch.cat(values)


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


def _early(
    network: I3D,
    clip: Tensor,
    window: int,
    stride: int,
    layers: int,
    at_once: int | None,
    prepared: Prepared | None,
) -> Windows:
    """The windows of a clip behind the first layers."""
    windows = Windows.of(clip, window, stride)
    groups: list[list[Layer]] = []
    for name in network.endpoints[:layers]:
        layer = _known(network.get_submodule(name))
        if groups and layer.temporal[0] == 1:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    for index, group in enumerate(groups):
        windows = windows.through(group, at_once, None if index else prepared)
    return windows


def _late(network: I3D, x: Tensor, layers: int) -> Tensor:
    """Features of windows (B, C, T, H, W) that are behind the first layers."""
    for name in network.endpoints[layers:]:
        x = network.get_submodule(name)(x)
    return network.pooled(x, network.endpoint)


def _in_time(layer: torch.nn.Module) -> tuple[int, int, Padding]:
    """Kernel, stride and padding of a layer along time."""
    known = _known(layer)
    return *known.temporal, known.padding


def _known(layer: torch.nn.Module) -> Layer:
    assert isinstance(layer, Unit3D | MaxPool | Mixed)
    return layer
