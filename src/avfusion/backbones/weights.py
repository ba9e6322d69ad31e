"""Weights of the backbones: where they come from, whether they fit, and what a feature file says of them.

Nothing is ever unpickled: files are read as tensors only.
"""

import io
import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from avfusion.backbones.i3d import ENDPOINTS, I3D, LAST, pytorch_i3d_name
from avfusion.backbones.vggish import VGGish
from avfusion.errors import InputError, MissingWeightsError
from avfusion.files import atomic_path, sha256
from avfusion.seeding import derive

logger = logging.getLogger("avfusion")

Name = Literal["i3d", "vggish"]
Layout = Literal["pytorch-i3d", "video_features"]

SOURCES = {
    "i3d": "models/rgb_imagenet.pt and models/flow_imagenet.pt of the pytorch-i3d repository",
    "vggish": "AudioSet's vggish_model.ckpt, converted, or torchvggish's vggish-10086976.pth",
}
FLOW_CHANNELS = 2
WRAPPERS = ("state_dict", "model_state_dict", "model")
# Parts of published files that features do not need.
UNUSED = {"i3d": (*(f"{name}." for name in ENDPOINTS), "logits."), "vggish": ("pproc.",)}


@dataclass(frozen=True)
class BackboneConfig:
    """What a stream's backbone is, apart from its weights.

    Attributes:
        name: "i3d" or "vggish".
        in_channels: of I3D: 3 for RGB, 2 for flow.
        width: factor on the channel counts; 1 is published.
        endpoint: of I3D: the layer whose activations become features.
        layout: of I3D: the code whose behaviour is reproduced, "pytorch-i3d" (batch-norm eps 1e-3, SAME
            padding) or "video_features" (1e-5, fixed padding). The names inside the file do not matter:
            both are recognised.
        eps: of I3D: batch-norm eps in place of that of the layout.
        final_relu: of VGGish: end in a ReLU (torchvggish) or not (the TF-Hub model of tal-hmo).
    """

    name: Name
    in_channels: int = 3
    width: float = 1.0
    endpoint: str = LAST
    layout: Layout = "pytorch-i3d"
    eps: float | None = None
    final_relu: bool = True

    def __str__(self) -> str:
        if self.name == "vggish":
            return f"vggish (width {self.width:g}, {'with' if self.final_relu else 'without'} final ReLU)"
        eps = "" if self.eps is None else f", eps {self.eps:g}"
        return f"i3d (width {self.width:g}, {self.endpoint}, as {self.layout}{eps})"

    def build(self) -> I3D | VGGish:
        """The network, without a classifier and with torch's own random weights.

        Raises:
            InputError: an unknown backbone, layout or end point.
        """
        if self.name == "vggish":
            return VGGish(self.width, self.final_relu)
        if self.name != "i3d":
            raise InputError("config", f"unknown backbone '{self.name}'; there are i3d, vggish", "backbone")
        if self.layout not in ("pytorch-i3d", "video_features"):
            raise InputError("config", f"'{self.layout}' is neither pytorch-i3d nor video_features", "layout")
        if self.endpoint not in ENDPOINTS:
            raise InputError("config", f"'{self.endpoint}' is none of {', '.join(ENDPOINTS)}", "endpoint")
        published = self.layout == "pytorch-i3d"
        return I3D(
            self.in_channels,
            self.width,
            num_classes=0,
            endpoint=self.endpoint,
            eps=self.eps if self.eps is not None else 1e-3 if published else 1e-5,
            padding="same" if published else "fixed",
        )


@dataclass(frozen=True)
class WeightsSpec:
    """Where weights come from: a file, or a seed for random ones. Exactly one of the two is set."""

    path: Path | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.seed is None):
            raise ValueError("weights are either a path or a seed")

    @classmethod
    def parse(cls, text: str | Path | None, backbone: str, stream: str | None = None) -> "WeightsSpec":
        """Read a config entry or a command line option: a path, or ``random:SEED``.

        Args:
            text: the entry; None where nothing was given.
            backbone: "i3d" or "vggish", for the message.
            stream: stream that wants them, for the message.

        Raises:
            MissingWeightsError: nothing was given; weights are never made up silently.
            InputError: ``random:`` without a seed that is a whole number from 0 on.
        """
        if text is None or not str(text):
            wanting = f"the stream '{stream}' ({backbone})" if stream else backbone
            source = SOURCES.get(backbone, "a state dict")
            raise MissingWeightsError(
                f"no weights for {wanting}: give the path of a file ({source}), "
                "or random:SEED for trials only (seeded random weights; such features mean nothing)"
            )
        if not str(text).startswith("random:"):
            return cls(path=Path(text))
        seed = str(text).removeprefix("random:")
        if not re.fullmatch(r"\d{1,18}", seed, re.ASCII):
            raise InputError(
                str(text), "the seed after 'random:' must be a whole number, such as random:0", "weights"
            )
        return cls(seed=int(seed))

    def describe(self) -> str:
        """What feature files record: ``sha256:<hex of the file>`` or ``random:SEED``."""
        if self.path is None:
            return f"random:{self.seed}"
        try:
            return f"sha256:{sha256(self.path)}"
        except OSError as error:
            raise InputError(self.path, f"cannot be read ({error.strerror})", "weights") from error


def build_backbone(
    config: BackboneConfig, weights: WeightsSpec | str | Path | None
) -> tuple[I3D | VGGish, str]:
    """The backbone of a stream in evaluation mode, and the description of its weights.

    I3D is meant to be used by ``extract_features``, VGGish by calling it.

    Args:
        weights: a spec, a path, ``random:SEED``, or None (an error that says where weights come from).

    Raises:
        MissingWeightsError: `weights` is None.
        InputError: the file cannot be read, or does not fit the network.
    """
    spec = weights if isinstance(weights, WeightsSpec) else WeightsSpec.parse(weights, config.name)
    with torch.random.fork_rng(devices=[]):  # torch draws initial values that are replaced here
        module = config.build()
    if spec.path is None:
        randomise(module, spec.seed or 0)
        return module.eval(), spec.describe()
    state = load_state(spec.path)
    if config.name == "i3d":
        state = {pytorch_i3d_name(name): value for name, value in state.items()}
    fit_state(module, state, spec.path, UNUSED[config.name])
    return module.eval(), spec.describe()


def load_backbone(
    stream: str, weights: WeightsSpec | str | Path | None, config: BackboneConfig
) -> tuple[I3D | VGGish, str]:
    """`build_backbone` for a stream by its name: messages name it, and flow has two input channels."""
    spec = weights if isinstance(weights, WeightsSpec) else WeightsSpec.parse(weights, config.name, stream)
    channels = FLOW_CHANNELS if stream == "flow" else config.in_channels
    return build_backbone(replace(config, in_channels=channels), spec)


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict: a torch file (tensors only) or an ``.npz`` with an array per name.

    A wrapping dict (``state_dict``, ``model_state_dict`` or ``model``) is taken off, and so is ``module.`` in
    front of the names.

    Raises:
        InputError: no such file, another format, objects other than tensors, or two names that become one.
    """
    content = _read_npz(path) if Path(path).suffix == ".npz" else _read_torch(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise InputError(path, "holds no state dict (a table of names and tensors)", "weights")
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise InputError(
                path, f"is a {type(value).__name__}, not a tensor; give a plain state dict", str(key)
            )
        name = str(key).removeprefix("module.")
        if name in state:
            raise InputError(path, "stands there twice, with and without 'module.'", name)
        state[name] = value
    return state


def save_state(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict that `load_state` reads, atomically. The same tensors give the same bytes.

    (Given a path, torch would write the name of the file into the file, and so change its hash.)
    """
    buffer = io.BytesIO()
    torch.save({name: value.detach().cpu().contiguous() for name, value in state.items()}, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def fit_state(
    module: nn.Module, state: Mapping[str, Tensor], source: str | Path, unused: tuple[str, ...] = ()
) -> None:
    """Load `state` into `module`; every parameter must be there, and nothing unknown.

    Old files lack ``num_batches_tracked`` (which only training reads): that may be missing.

    Args:
        source: the file, for messages.
        unused: beginnings of names that may be left over, such as a classifier's.

    Raises:
        InputError: names that are missing or left over, or a tensor of another shape (both are named).
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    left_over = [name for name in state if name not in own and not name.startswith(unused or "\0")]
    if missing or left_over:
        told = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in (("missing", missing), ("left over", left_over))
            if names
        ]
        kind = type(module).__name__
        raise InputError(
            source, f"does not fit {kind}: {'; '.join(told)}; is it the file of this backbone?", "weights"
        )
    for name, value in own.items():
        if name in state and state[name].shape != value.shape:
            theirs, ours = tuple(state[name].shape), tuple(value.shape)
            raise InputError(
                source, f"has shape {theirs}, but the network wants {ours}: check width and stream", name
            )
        if name in state and not torch.isfinite(state[name]).all():
            raise InputError(source, "holds NaN or infinite values", name)
    module.load_state_dict({name: value for name, value in state.items() if name in own}, strict=False)
    skipped = len(state) - sum(name in own for name in state)
    logger.info("%s: %d tensors loaded, %d not needed", source, len(state) - skipped, skipped)


def randomise(module: nn.Module, seed: int) -> None:
    """Fill `module` with seeded random weights, for trials without trained ones.

    He et al. (2015): normal with variance 2 / fan-in, so that activations neither vanish nor explode through
    layers of ReLUs; biases 0; batch norms begin as the identity. Every parameter has a generator of its own,
    by its name: the global one is left alone, and a truncated network has the same weights as the whole one.
    """
    for name, value in module.state_dict().items():
        if value.dim() >= 2:
            generator = torch.Generator().manual_seed(derive(seed, name))
            deviation = (2.0 / value[0].numel()) ** 0.5
            value.copy_(torch.randn(value.shape, generator=generator) * deviation)
        else:
            value.fill_(1 if name.endswith(("bn.weight", "running_var")) else 0)


def _read_npz(path: str | Path) -> Mapping[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(np.asarray(file[name])) for name in file}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(path, f"cannot be read as .npz ({error})", "weights") from error


def _read_torch(path: str | Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "weights") from error
    except pickle.UnpicklingError as error:
        told = (
            "is no torch file, or holds more than tensors, which is never loaded; save its state dict alone"
        )
        raise InputError(path, told, "weights") from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(path, f"cannot be read as a torch file ({reason})", "weights") from error
