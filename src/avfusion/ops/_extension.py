"""Finding and loading the compiled operators, and registering what stands in for them.

Every operator is ``torch.ops.avfusion.<name>`` in any case. With the extension its schema and its CPU (and
perhaps CUDA) kernels come from csrc/; without it from here. The reference implementations in plain torch
serve every device that has no kernel of its own, so that callers need not know which it is.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

DISABLE = "AVFUSION_NO_EXTENSION"  # set to 1: reference implementations, although there is an extension
ADVICE = "run `pip install -e . --no-build-isolation` where a C++ compiler is"
_FOLDER = Path(__file__).parent
_NAME = "_C_torch" + "".join(torch.__version__.split(".")[:2])
_LIBRARY = torch.library.Library("avfusion", "FRAGMENT")


@dataclass(frozen=True)
class ExtensionStatus:
    """Whether the operators are compiled.

    Attributes:
        loaded: whether the extension in C++ is in use.
        cuda: whether it has CUDA kernels.
        detail: the file that was loaded, or why none was and what to do about it.
    """

    loaded: bool
    cuda: bool
    detail: str

    def __str__(self) -> str:
        kernels = "C++ and CUDA" if self.cuda else "C++ (CPU)"
        return f"{kernels}, {self.detail}" if self.loaded else f"plain torch, slower: {self.detail}"


def _schema(name: str) -> str | None:
    """Schema of an operator as it is registered; None if it is not."""
    packet = getattr(torch.ops.avfusion, name, None)
    return None if packet is None else str(packet.default._schema)


def _load() -> ExtensionStatus:
    if os.environ.get(DISABLE, "0") not in ("", "0"):
        return ExtensionStatus(False, False, f"{DISABLE} is set")
    files = sorted(_FOLDER.glob("_C_torch*.so"))
    fitting = [file for file in files if file.name.split(".")[0] == _NAME]
    if not fitting:
        other = f"built for another torch than {torch.__version__}: {', '.join(f.name for f in files)}"
        return ExtensionStatus(False, False, f"{other if files else 'not built'}; {ADVICE}")
    try:
        torch.ops.load_library(str(fitting[0]))
    except OSError as error:  # made by another compiler, or with a CUDA that is not here
        return ExtensionStatus(False, False, f"{fitting[0].name} cannot be loaded ({error}); {ADVICE}")
    pooling = "roi_max_pool1d"
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    cuda = _schema(pooling) is not None and has_kernel(f"avfusion::{pooling}", "CUDA")
    return ExtensionStatus(True, cuda, fitting[0].name)


_STATUS = _load()


def extension_status() -> ExtensionStatus:
    """Whether the operators are compiled, and if not, why; ``str()`` of it is one line for a person."""
    return _STATUS


def register(schema: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Register an operator's shape function and its reference, which serves devices without a kernel.

    Args:
        schema: as in csrc/, without the namespace.
        reference: implementation in plain torch.
        fake: implementation for tensors without data, which finds shapes and types only.

    Raises:
        ImportError: the extension defines this operator otherwise, or not at all: it is of another version.
    """
    name = _define(schema)
    torch.library.register_fake(f"avfusion::{name}", fake, lib=_LIBRARY)
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")


def register_composite(schema: str, reference: Callable[..., Any]) -> None:
    """Register an operator that is made of differentiable ones; `reference` serves without the extension.

    Raises:
        ImportError: as `register`.
    """
    name = _define(schema)
    if not _STATUS.loaded:
        _LIBRARY.impl(name, reference, "CompositeImplicitAutograd")


def _define(schema: str) -> str:
    """Name of an operator, which is now there with this schema."""
    name = schema.split("(", 1)[0]
    if not _STATUS.loaded:
        _LIBRARY.define(schema)
    elif (found := _schema(name)) != f"avfusion::{schema}":
        raise ImportError(
            f"{_STATUS.detail} was built from other sources than these ({name} is {found or 'not in it'}); "
            f"{ADVICE}, or set {DISABLE}=1"
        )
    return name
