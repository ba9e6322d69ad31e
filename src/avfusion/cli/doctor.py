"""``avfusion doctor``: whether everything that is needed is here, and what to do about what is not."""

import argparse
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

DESCRIPTION = """\
Say which versions, devices, codecs and compiled operators are here, and where weights come from. The exit
status is 1 if something is missing that AVFusion cannot do without on a CPU; a line then says what to do."""
INSTALL = "run `pip install -e .` in the checkout"
# distribution -> module; matplotlib and jsonschema serve reports and the workflow's config
NEEDED = {
    "torch": "torch",
    "numpy": "numpy",
    "av": "av",
    "opencv-contrib-python-headless": "cv2",
    "h5py": "h5py",
    "resampy": "resampy",
    "numba": "numba",
    "PyYAML": "yaml",
    "jsonschema": "jsonschema",
    "matplotlib": "matplotlib",
    "tqdm": "tqdm",
}
OPTIONAL = {
    "snakemake": "only the workflow needs it: `pip install -e '.[workflow]'`",
    "snakemake-executor-plugin-slurm": "only the workflow needs it: `pip install -e '.[workflow]'`",
    "yt-dlp": "only `source: youtube` needs it: `pip install -e '.[youtube]'`",
}
# An exception in C++ has to cross from the operators to Python, which it cannot if their compiler (as in some
# images with CUDA) has linked a C++ library of its own into them.
RAISES = """
import torch
from avfusion.ops import roi_max_pool1d
try:
    roi_max_pool1d(torch.ones(1, 1, 2), torch.ones(1, 3), 1, 1.0)
except IndexError:
    raise SystemExit(0)
raise SystemExit(1)
"""
DECODERS = ("h264", "mpeg4", "aac", "mp3")
DECODERS_OFTEN_MET = ("hevc", "vp9", "av1", "opus", "vorbis")
ENCODERS_OF_THE_DEMO = ("libx264", "aac")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: what was looked at.
        text: what was found.
        advice: what to do; empty if nothing is wrong.
        needed: whether AVFusion cannot do without.
    """

    topic: str
    text: str
    advice: str = ""
    needed: bool = True

    @property
    def missing(self) -> bool:
        """Whether this stops AVFusion from working on a CPU."""
        return bool(self.advice) and self.needed

    def __str__(self) -> str:
        mark = "MISSING" if self.missing else "note" if self.advice else "ok"
        return f"{mark:<7}  {self.topic}: {self.text}" + (f"; {self.advice}" if self.advice else "")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "doctor", help="versions, devices, codecs, compiled operators, weights", description=DESCRIPTION
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what was found; 0 if nothing that is needed is missing, else 1."""
    missing = 0
    for finding in examine():
        print(finding, flush=True)
        missing += finding.missing
    things = "1 thing is" if missing == 1 else f"{missing} things are"
    print(f"\n{things} missing" if missing else "\neverything that is needed is here")
    return 1 if missing else 0


def examine() -> Iterator[Finding]:
    """All findings, needed things first in each group."""
    yield from _versions()
    yield from _group("device", _device)
    yield from _group("operators", _operators)
    yield from _group("codecs", _codecs)
    yield from _group("weights", _weights)


def _group(topic: str, findings: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Findings that need a package; if it is missing, that was said before."""
    try:
        yield from findings()
    except ImportError as error:
        yield Finding(topic, f"cannot be looked at without {error.name}", "see above", needed=False)


def _versions() -> Iterator[Finding]:
    supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    yield Finding("python", platform.python_version(), "" if supported else "use Python 3.11 or 3.12")
    for name, module in NEEDED.items():
        try:
            import_module(module)
        except (ImportError, OSError) as error:
            yield Finding(name, f"cannot be imported ({error})", INSTALL)
        else:
            yield Finding(name, _version(name) or "version unknown")
    for name, advice in OPTIONAL.items():
        found = _version(name)
        yield Finding(name, found or "not installed", "" if found else advice, needed=False)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _device() -> Iterator[Finding]:
    import torch

    threads = torch.get_num_threads()
    yield Finding("cpu", f"{threads} threads, {torch.backends.cpu.get_cpu_capability()}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(index).total_memory / 2**30
            yield Finding("cuda", f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB")
    else:
        built = torch.version.cuda
        yield Finding(
            "cuda", f"no device (torch for CUDA {built})" if built else "no device, torch is a CPU build"
        )


def _operators() -> Iterator[Finding]:
    from avfusion.ops import extension_status

    status = extension_status()
    advice = "" if status.loaded else "everything works without it, training more slowly"
    yield Finding("operators", str(status), advice, needed=False)
    if status.loaded and subprocess.run([sys.executable, "-c", RAISES], capture_output=True).returncode:
        yield Finding(
            "operators",
            "their errors end Python instead of raising an exception",
            "build with the system's compiler: CC=/usr/bin/gcc CXX=/usr/bin/g++ CUDAHOSTCXX=/usr/bin/g++",
        )


def _codecs() -> Iterator[Finding]:
    import av
    import cv2

    versions = {name: ".".join(map(str, number)) for name, number in av.library_versions.items()}
    yield Finding("ffmpeg", ", ".join(f"{name} {versions[name]}" for name in ("libavcodec", "libavformat")))
    yield _codec_finding("decoders", DECODERS, "r", f"av without them: {INSTALL}")
    yield _codec_finding(
        "further decoders", DECODERS_OFTEN_MET, "r", "videos in them will be left out", False
    )
    yield _codec_finding("encoders", ENCODERS_OF_THE_DEMO, "w", "the demo cannot be rendered", False)
    optflow = hasattr(cv2, "optflow")
    advice = "" if optflow else "for tvl1_opencv, replace opencv by opencv-contrib-python-headless"
    flows = "tvl1, dis, tvl1_opencv" if optflow else "tvl1, dis, but not tvl1_opencv"
    yield Finding("optical flow", flows, advice, needed=False)


def _codec_finding(
    topic: str, names: tuple[str, ...], mode: Literal["r", "w"], advice: str, needed: bool = True
) -> Finding:
    import av.codec

    lacking = []
    for name in names:
        try:
            av.codec.Codec(name, mode)
        except ValueError:  # av.codec.codec.UnknownCodecError
            lacking.append(name)
    if lacking:
        return Finding(topic, f"{', '.join(lacking)} not there", advice, needed)
    return Finding(topic, ", ".join(names))


def _weights() -> Iterator[Finding]:
    from avfusion.backbones.published import FILES, FOLDER

    for name, file in FILES.items():
        path = FOLDER / file.name
        if not path.exists():
            advice = f"if you need it: `avfusion weights {name}`"
            yield Finding(f"weights {name}", f"{path} is not there", advice, needed=False)
            continue
        problem = file.expected.problem(path)
        advice = f"remove it and run `avfusion weights {name}`" if problem else ""
        yield Finding(f"weights {name}", f"{path} {problem or 'is the published file'}", advice)
    yield from _self_check()
    where = "`weights:` of a stream in config/datasets/NAME.yaml, or `avfusion extract --weights STREAM=FILE`"
    yield Finding("other weights", f"anywhere; say where: {where}")


def _self_check() -> Iterator[Finding]:
    """VGGish's published self-check, with every file of its weights that is there."""
    from avfusion.backbones.published import FILES, FOLDER, PREFIX, local_path
    from avfusion.backbones.self_check import check_vggish
    from avfusion.backbones.vggish import PcaParameters, VGGish
    from avfusion.backbones.weights import BackboneConfig, build_backbone
    from avfusion.errors import AvfusionError

    pca_path = FOLDER / FILES["vggish_pca"].name
    for name in ("vggish", "vggish_tensorflow"):
        path = Path(local_path(f"{PREFIX}{name}", FOLDER))
        if not path.exists():
            continue
        try:
            network, _ = build_backbone(BackboneConfig("vggish"), path)
            assert isinstance(network, VGGish)
            pca = PcaParameters.read(pca_path) if pca_path.exists() else None
            for outcome in check_vggish(network, pca):
                advice = "" if outcome.passed else "these are other weights, or the front end is broken"
                yield Finding(f"self-check of {path.name}", str(outcome), advice)
        except AvfusionError as error:
            yield Finding(f"self-check of {path.name}", str(error), "replace the file")
