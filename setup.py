"""Builds the operators in C++ (csrc/) beside the Python package; everything else is in pyproject.toml.

The CPU part is built wherever a C++ compiler is, the CUDA part where a CUDA toolkit and a CUDA build of torch
are as well. Without a compiler the package installs all the same and computes the operators in plain torch;
`avfusion doctor` says which. `AVFUSION_BUILD` chooses: `none` builds nothing, `cpu` leaves CUDA out, `cuda`
insists on it, and with `cpu` or `cuda` a build that fails is an error.

The sources use ATen, because torch >= 2.6 shall do; the stable ABI (one binary for several versions of torch)
needs 2.10. The library's name therefore carries the version of torch that it was built with.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
# A fused multiply-add rounds differently, which can move the bounds of a bin.
OPTIMISE = {"cxx": ["-O3", "-g0", "-ffp-contract=off"], "nvcc": ["-O3", "-fmad=false"]}
# Without OpenMP at::parallel_for is a plain loop; torch has loaded its libgomp, which serves this as well.
OPENMP = ["-fopenmp"] if sys.platform == "linux" else []


def wanted() -> str:
    """What to build: ``none``, ``auto``, ``cpu`` or ``cuda``."""
    choice = os.environ.get("AVFUSION_BUILD", "auto")
    if choice not in ("none", "auto", "cpu", "cuda"):
        sys.exit(f"setup.py: AVFUSION_BUILD must be none, auto, cpu or cuda, not '{choice}'")
    return choice


def warn(problem: object, what: str = "the C++ extension") -> None:
    """Say on standard error what the package goes without, and why."""
    print(
        f"setup.py: WARNING: {what} was not built ({problem}); avfusion.ops will use plain torch instead: "
        "the same results, more slowly. Needed: a C++ compiler (g++), for CUDA nvcc of torch's CUDA version.",
        file=sys.stderr,
    )


def toolkit_libraries(home: str | None) -> list[str]:
    """Where the CUDA toolkit keeps its libraries, as nvcc says itself.

    torch looks for them beside nvcc, which may be a script that calls another one (modules, compiler caches).
    """
    nvcc = shutil.which("nvcc", path=str(Path(home) / "bin")) if home else None
    if nvcc is None:
        return []
    command = [nvcc, "--dryrun", "-x", "cu", os.devnull]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # whether it can compile is for the build to say
        return []
    top = re.search(r"^#\$ TOP=(.+)$", told.stderr, re.MULTILINE)
    folders = [Path(top[1].strip()) / name for name in ("lib64", "lib")] if top else []
    return sorted({str(folder.resolve()) for folder in folders if folder.is_dir()})


def build_arguments(choice: str) -> dict[str, object]:
    """Arguments of ``setup`` that build the extension; none if torch cannot be imported."""
    try:
        import torch
        from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
    except ImportError as error:
        if choice != "auto":
            raise
        warn(f"{error}; install torch first and use --no-build-isolation")
        return {}

    version = "".join(torch.__version__.split(".")[:2])

    def extension(cuda: bool) -> Extension:
        folders = ["csrc/ops", "csrc/ops/cpu", *(["csrc/ops/cuda"] if cuda else [])]
        sources = (path for folder in folders for path in (ROOT / folder).iterdir())
        libraries = {"library_dirs": toolkit_libraries(CUDA_HOME)} if cuda else {}
        return (CUDAExtension if cuda else CppExtension)(
            name=f"avfusion.ops._C_torch{version}",
            sources=sorted(str(p.relative_to(ROOT)) for p in sources if p.suffix in (".cpp", ".cu")),
            depends=sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.h")),
            extra_compile_args={"cxx": [*OPTIMISE["cxx"], *OPENMP], "nvcc": list(OPTIMISE["nvcc"])},
            extra_link_args=list(OPENMP),
            py_limited_api=True,  # torch loads it, Python does not import it: one file for every version
            **libraries,
        )

    class Build(BuildExtension):
        """In `auto`, a CUDA part that cannot be built is left out, and then all of it."""

        def build_extensions(self) -> None:
            for fallback in (cpu_only, None):
                try:
                    super().build_extensions()
                    return
                except Exception as error:  # no compiler, another CUDA than torch's, ...: each its own type
                    if choice != "auto":
                        raise
                    reason = " ".join(str(error).split()) or type(error).__name__
                    if fallback is None or not cuda:
                        warn(reason, "the C++ extension")
                        self.extensions[0].optional = True  # so that setuptools does not miss its file
                        return
                    warn(reason, "the CUDA part")
                    vars(self.extensions[0]).update(vars(fallback))

    has_cuda = torch.version.cuda is not None and CUDA_HOME is not None
    cuda = choice == "cuda" or (choice == "auto" and has_cuda)
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;8.6;8.9;9.0+PTX")
    cpu_only = extension(cuda=False)
    return {
        "ext_modules": [extension(cuda=True) if cuda else cpu_only],
        "cmdclass": {"build_ext": Build},
    }


CHOICE = wanted()
setup(**({} if CHOICE == "none" else build_arguments(CHOICE)))
