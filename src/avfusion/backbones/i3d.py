"""I3D: the Inception-v1 network with all kernels inflated to three dimensions.

Carreira and Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", CVPR 2017.
Layers carry the names of the pytorch-i3d checkpoints (rgb_imagenet.pt, flow_imagenet.pt); files in the
other common layout, that of video_features, are renamed by `pytorch_i3d_name`. The two codes also behave
differently with the same weights: they pad differently where a size is odd, and their batch norms differ in
eps. `padding` and `eps` of `I3D` choose; the defaults are pytorch-i3d's.
"""

import re
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["same", "fixed"]
Triple = tuple[int, int, int]
Pads = tuple[int, int]

MOMENTUM = 0.01  # of batch norm, as published; a network that trains for minutes wants a larger one
DROPOUT = 0.5

# name -> (output channels, kernel, stride)
STEM: dict[str, tuple[int, Triple, Triple]] = {
    "Conv3d_1a_7x7": (64, (7, 7, 7), (2, 2, 2)),
    "Conv3d_2b_1x1": (64, (1, 1, 1), (1, 1, 1)),
    "Conv3d_2c_3x3": (192, (3, 3, 3), (1, 1, 1)),
}
# name -> (kernel, stride)
POOLS: dict[str, tuple[Triple, Triple]] = {
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}
# name -> output channels of b0, b1a, b1b, b2a, b2b, b3b
MIXED: dict[str, tuple[int, int, int, int, int, int]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
ENDPOINTS = (
    "Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3", "Mixed_3b",
    "Mixed_3c", "MaxPool3d_4a_3x3", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f",
    "MaxPool3d_5a_2x2", "Mixed_5b", "Mixed_5c",
)  # fmt: skip
LAST = ENDPOINTS[-1]
POOL = (2, 7, 7)  # the average pool behind Mixed_5c


class Unit3D(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Triple,
        stride: Triple,
        padding: Padding,
        eps: float,
        momentum: float,
    ) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn: nn.BatchNorm3d | nn.Identity = nn.BatchNorm3d(outputs, eps, momentum)
        self.padding = padding

    @property
    def temporal(self) -> tuple[int, int]:
        """Kernel and stride along time."""
        return self.conv3d.kernel_size[0], self.conv3d.stride[0]

    def volume(self, x: Tensor) -> int:
        """Numbers that it puts out for one step of one of (B, C, T, H, W)."""
        return _volume(self.conv3d.out_channels, x, self.conv3d.stride)

    def forward(self, x: Tensor, pads_in_time: Pads | None = None) -> Tensor:
        """(B, C_in, T, H, W) -> (B, C_out, T', H', W').

        Args:
            pads_in_time: zeros before and after in time, in place of what `padding` says.
        """
        kernel, stride = self.conv3d.kernel_size, self.conv3d.stride
        pads = [pads_of(self.padding, *sizes) for sizes in zip(x.shape[2:], kernel, stride, strict=True)]
        pads[0] = pads[0] if pads_in_time is None else pads_in_time
        if not all(before == after for before, after in pads):
            x, pads = _with_zeros(x, pads)
        symmetric = [before for before, _ in pads]  # the convolution pads by itself, without a copy
        weight, bias = self.conv3d.weight, self.conv3d.bias
        if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            # By itself torch takes a slower convolution for few numbers, and what it holds for few is many.
            x = torch.mkldnn_convolution(x, weight, bias, symmetric, stride, (1, 1, 1), 1)
        else:
            x = F.conv3d(x, weight, bias, stride, symmetric)
        return F.relu(self.bn(x), inplace=True)

    @torch.no_grad()
    def fold(self) -> None:
        """Put batch norm, as it is in evaluation, into weights and a bias of the convolution."""
        if isinstance(self.bn, nn.Identity):
            return
        norm, conv = self.bn, self.conv3d
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None
        scale = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
        bias = norm.bias.double() - mean.double() * scale
        weight = conv.weight.double() * scale[:, None, None, None, None]
        conv.weight = nn.Parameter(weight.to(conv.weight), requires_grad=False)
        conv.bias = nn.Parameter(bias.to(conv.weight), requires_grad=False)
        self.bn = nn.Identity()


class MaxPool(nn.Module):
    """Max pooling of non-negative values that pads like the convolutions.

    The published codes pad with zeros, which never win behind a ReLU. Without gradients on a CPU the maximum
    is taken axis by axis: the same numbers, and some 5 to 60 times faster than torch's pooling.
    """

    def __init__(self, kernel: Triple, stride: Triple, padding: Padding) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding

    @property
    def temporal(self) -> tuple[int, int]:
        """Kernel and stride along time."""
        return self.kernel[0], self.stride[0]

    def volume(self, x: Tensor) -> int:
        """Numbers that it puts out for one step of one of (B, C, T, H, W)."""
        return _volume(x.shape[1], x, self.stride)

    def forward(self, x: Tensor, pads_in_time: Pads | None = None) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T', H', W').

        Args:
            pads_in_time: zeros before and after in time, in place of what `padding` says. The last window is
                rounded up all the same.
        """
        axes = list(zip(x.shape[2:], self.kernel, self.stride, strict=True))
        pads = [pads_of(self.padding, *sizes) for sizes in axes]
        pads[0] = pads[0] if pads_in_time is None else pads_in_time
        if x.device.type == "cpu" and not x.requires_grad:
            for axis, (_, kernel, stride) in enumerate(axes):
                x = _max_along(x, axis + 2, kernel, stride, pads[axis])
            return x
        if (
            self.padding == "same" and pads_in_time is None
        ):  # what SAME puts behind is what rounding up needs: no copy
            before = [before for before, _ in pads]
            return F.max_pool3d(x, self.kernel, self.stride, before, ceil_mode=True)
        return F.max_pool3d(F.pad(x, _flat(pads)), self.kernel, self.stride, ceil_mode=True)


class Mixed(nn.Module):
    """Inception block: 1x1x1; 1x1x1 and 3x3x3; 1x1x1 and 3x3x3; max pool and 1x1x1; joined by channels."""

    def __init__(
        self, inputs: int, outputs: tuple[int, ...], padding: Padding, eps: float, momentum: float
    ) -> None:
        super().__init__()

        def unit(inputs: int, outputs: int, size: int) -> Unit3D:
            return Unit3D(inputs, outputs, (size,) * 3, (1, 1, 1), padding, eps, momentum)

        b0, b1a, b1b, b2a, b2b, b3b = outputs
        self.b0 = unit(inputs, b0, 1)
        self.b1a = unit(inputs, b1a, 1)
        self.b1b = unit(b1a, b1b, 3)
        self.b2a = unit(inputs, b2a, 1)
        self.b2b = unit(b2a, b2b, 3)
        self.b3a = MaxPool((3, 3, 3), (1, 1, 1), padding)
        self.b3b = unit(inputs, b3b, 1)
        self.padding = padding

    @property
    def temporal(self) -> tuple[int, int]:
        """Kernel and stride along time."""
        return self.b1b.temporal

    def volume(self, x: Tensor) -> int:
        """Numbers that it puts out for one step of one of (B, C, T, H, W)."""
        units = self.b0, self.b1b, self.b2b, self.b3b
        return sum(unit.volume(x) for unit in units)

    def forward(self, x: Tensor, pads_in_time: Pads | None = None) -> Tensor:
        """(B, C_in, T, H, W) -> (B, C_out, T', H, W).

        Args:
            pads_in_time: zeros before and after in time, in front of the layers that see three steps, in
                place of what `padding` says.
        """
        before, after = (1, 1) if pads_in_time is None else pads_in_time
        middle = x.narrow(2, 1 - before, x.shape[2] + before + after - 2)
        branches = (
            self.b0(middle),
            self.b1b(self.b1a(x), pads_in_time),
            self.b2b(self.b2a(x), pads_in_time),
            self.b3b(self.b3a(x, pads_in_time)),
        )
        return torch.cat(branches, dim=1)


class Logits(nn.Module):
    """Linear classifier over channels."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, classes, T, H, W)."""
        return self.conv3d(x)


class I3D(nn.Module):
    """Inception-v1 I3D; RGB has 3 input channels, flow 2. Input values lie in [-1, 1].

    Args:
        in_channels: 3 for RGB, 2 for flow (x, then y).
        width: factor on every channel count but that of the input; 1 is the published network. Counts are
            rounded, and at least 1.
        num_classes: outputs of the classifier; with 0 there is none, and `forward` gives the features.
        endpoint: last layer that is built, one of `ENDPOINTS`; the classifier stands on it.
        eps: of batch norm: 1e-3 in pytorch-i3d, 1e-5 in video_features. The same weights give features that
            differ in the first decimal.
        momentum: of batch norm. The published one, 0.01, takes hundreds of steps until the running
            statistics have forgotten their start.
        padding: "same" pads by input size as TensorFlow does (pytorch-i3d), "fixed" by kernel and stride with
            ceil-mode pooling (video_features). They are the same for 224 x 224 frames in multiples of 8.

    Raises:
        ValueError: an unknown end point.
    """

    def __init__(
        self,
        in_channels: int = 3,
        width: float = 1.0,
        num_classes: int = 400,
        endpoint: str = LAST,
        eps: float = 1e-3,
        momentum: float = MOMENTUM,
        padding: Padding = "same",
    ) -> None:
        super().__init__()
        self.endpoint = endpoint
        self.endpoints = ENDPOINTS[: _position(endpoint) + 1]
        channels = in_channels
        for name in self.endpoints:
            if name in POOLS:
                self.add_module(name, MaxPool(*POOLS[name], padding))
            elif name in STEM:
                outputs, kernel, stride = STEM[name]
                outputs = _scaled(outputs, width)
                self.add_module(name, Unit3D(channels, outputs, kernel, stride, padding, eps, momentum))
                channels = outputs
            else:
                counts = tuple(_scaled(count, width) for count in MIXED[name])
                self.add_module(name, Mixed(channels, counts, padding, eps, momentum))
                channels = sum(counts[index] for index in (0, 2, 4, 5))
        self.channels = channels
        self.dropout = nn.Dropout(DROPOUT)
        self.logits = Logits(channels, num_classes) if num_classes else None

    def forward(self, x: Tensor) -> Tensor:
        """Class scores before the softmax, (B, num_classes), averaged over the clip.

        The classifier is linear: scoring the mean of all steps is the mean of the published per-step scores.
        """
        features = self.extract_features(x)
        if self.logits is None:
            return features
        return self.logits(self.dropout(features)[:, :, None, None, None]).flatten(1)

    def fold(self) -> None:
        """Put every batch norm into its convolution: the same values to rounding, for inference only."""
        for module in self.modules():
            if isinstance(module, Unit3D):
                module.fold()

    def activations(self, x: Tensor, endpoint: str | None = None) -> Tensor:
        """What an end point puts out, (B, C, T', H', W'), for clips (B, in_channels, T, H, W)."""
        for name in self.endpoints[: _position(endpoint or self.endpoint) + 1]:
            x = self.get_submodule(name)(x)
        return x

    def extract_steps(self, x: Tensor) -> Tensor:
        """The published features, one per step of 8 frames: Mixed_5c, averaged over 2 x 7 x 7.

        (B, in_channels, T, H, W) -> (B, C, ceil(T/8) - 1, ceil(H/32) - 6, ceil(W/32) - 6), so 1 x 1 in space
        for frames of 224 x 224 (``extract_features`` of pytorch-i3d).

        Raises:
            ValueError: the clip is too small for that pool.
        """
        x = self.activations(x, LAST)
        if any(size < pool for size, pool in zip(x.shape[2:], POOL, strict=True)):
            raise ValueError(
                f"{LAST} has {tuple(x.shape[2:])} values per channel, fewer than the pool {POOL}"
            )
        return F.avg_pool3d(x, POOL, stride=1)

    def extract_features(self, x: Tensor, endpoint: str | None = None) -> Tensor:
        """One feature per clip: (B, in_channels, T, H, W) -> (B, C).

        At Mixed_5c: the published average over 2 x 7 x 7 with stride 1, then the mean over the steps (and
        over places, if frames are larger than 224 x 224), as video_features does. At other end points, and
        where that pool does not fit (clips of at most 8 frames, frames of at most 192 pixels): the mean over
        all of time and space. Of a clip of 16 x 224 x 224 both are the same.

        Args:
            endpoint: one of `ENDPOINTS`; later layers are not computed. By default the last one built.
        """
        endpoint = endpoint or self.endpoint
        return self.pooled(self.activations(x, endpoint), endpoint)

    def pooled(self, x: Tensor, endpoint: str) -> Tensor:
        """The mean of an end point's activations (B, C, T', H', W') that `extract_features` takes: (B, C)."""
        if endpoint == LAST and all(size >= pool for size, pool in zip(x.shape[2:], POOL, strict=True)):
            x = F.avg_pool3d(x, POOL, stride=1)
        return x.mean(dim=(2, 3, 4))


def pytorch_i3d_name(name: str) -> str:
    """The pytorch-i3d name of a parameter that video_features (hassony2's port) calls `name`.

    Names that are pytorch-i3d's already stay as they are.

    >>> pytorch_i3d_name("mixed_3b.branch_1.0.batch3d.weight")
    'Mixed_3b.b1a.bn.weight'
    """
    name = name.replace("conv3d_0c_1x1.", "logits.").replace(".batch3d.", ".bn.")
    name = re.sub(r"^(conv3d|mixed)_", lambda part: part[0].capitalize(), name)
    # branch_0 is one unit; branch_1 and branch_2 are two; branch_3.1 is the unit behind the pool branch_3.0.
    return re.sub(
        r"\.branch_(\d)(?:\.(\d))?", lambda part: f".b{part[1]}{'ab'[int(part[2])] if part[2] else ''}", name
    )


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def _position(endpoint: str) -> int:
    if endpoint not in ENDPOINTS:
        raise ValueError(f"no I3D end point '{endpoint}'; there are {', '.join(ENDPOINTS)}")
    return ENDPOINTS.index(endpoint)


def pads_of(padding: Padding, size: int, kernel: int, stride: int) -> Pads:
    """Zeros before and after one axis: TensorFlow's SAME, or as if the size were a multiple of the stride."""
    left = size % stride or stride if padding == "same" else stride
    total = max(kernel - left, 0)
    return total // 2, total - total // 2


def _volume(channels: int, x: Tensor, stride: tuple[int, ...]) -> int:
    return channels * -(-x.shape[3] // stride[1]) * -(-x.shape[4] // stride[2])


def _with_zeros(x: Tensor, pads: list[Pads]) -> tuple[Tensor, list[Pads]]:
    """Padded (B, C, T, H, W), and what a convolution has to pad yet, which is the same on both sides."""
    (before, after), *space = pads
    if x.device.type != "cpu" or any(first != last for first, last in space):
        return F.pad(x, _flat(pads)), [(0, 0)] * 3
    first, last = (x.new_zeros((*x.shape[:2], count, *x.shape[3:])) for count in (before, after))
    return torch.cat([first, x, last], dim=2), [(0, 0), *space]  # a third of the time of F.pad


def _flat(pads: list[tuple[int, int]]) -> list[int]:
    return [pad for pair in reversed(pads) for pad in pair]


def _max_along(x: Tensor, axis: int, kernel: int, stride: int, pads: Pads) -> Tensor:
    """Max pooling of one axis, with as many zeros behind as the last, rounded up, window needs.

    Zeros never win: instead of putting them there, what a window sees of the others is compared.
    """
    if kernel == stride == 1:
        return x
    (before, after), size = pads, x.shape[axis]
    count = -(-(size + before + after - kernel) // stride) + 1
    whole: list[Tensor] = []  # of the pixels of a window, those that all windows have
    partly: list[tuple[int, Tensor]] = []  # the first window that has it, and the pixels of it and the next
    for shift in range(kernel):
        first = max(0, -(-(before - shift) // stride))
        end = min(count, (size - 1 - shift + before) // stride + 1)
        if first < end:
            start = first * stride - before + shift
            pixels = x[(*[slice(None)] * axis, slice(start, start + (end - first - 1) * stride + 1, stride))]
            if end - first == count:
                whole.append(pixels)
            else:
                partly.append((first, pixels))
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    if len(whole) > 1:
        result = torch.maximum(whole.pop(), whole.pop())
    elif whole and partly:
        (first, pixels), base = partly.pop(), whole.pop()
        end, result = first + pixels.shape[axis], x.new_empty(shape)
        torch.maximum(_span(base, axis, first, end), pixels, out=_span(result, axis, first, end))
        for begin, stop in ((0, first), (end, count)):
            _span(result, axis, begin, stop).copy_(_span(base, axis, begin, stop))
    else:
        result = whole.pop().contiguous() if whole else x.new_zeros(shape)
    for first, pixels in [*((0, pixels) for pixels in whole), *partly]:
        place = _span(result, axis, first, first + pixels.shape[axis])
        torch.maximum(place, pixels, out=place)
    return result


def _span(x: Tensor, axis: int, begin: int, end: int) -> Tensor:
    return x.narrow(axis, begin, end - begin)
