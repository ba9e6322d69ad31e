"""Published weights: which file is right, fetching one, the self-check, and what `doctor` says of them."""

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from avfusion.backbones import published
from avfusion.backbones.extract import StreamConfig
from avfusion.backbones.from_config import ready_backbone
from avfusion.backbones.published import FILES, PublishedFile, check_file, fetch, local_path
from avfusion.backbones.self_check import Outcome, check_vggish, tone_examples
from avfusion.backbones.vggish import PcaParameters, VGGish
from avfusion.backbones.weights import BackboneConfig, build_backbone, save_state
from avfusion.cli.main import main
from avfusion.errors import InputError
from avfusion.media.snippets import AudioGeometry

CONTENT = b"weights" * 1000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A folder served over HTTP."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> PublishedFile:
    """A published file whose content is known here."""
    blob = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    file = PublishedFile("http://nowhere.invalid/net.pt", "a network", git_blob=blob)
    monkeypatch.setattr(published, "FILES", {"net": file})
    return file


def test_the_table_is_complete() -> None:
    assert len({file.name for file in FILES.values()}) == len(FILES)
    for name, file in FILES.items():
        assert file.url.startswith("https://") and file.what
        assert file.git_blob or file.sha256, name
        assert file.git_blob is None or len(file.git_blob) == 40
        assert file.sha256 is None or len(file.sha256) == 64


def test_hashes_agree_with_the_upstream_files(golden: Path) -> None:
    import json

    files = json.loads((golden / "upstream-files.json").read_text())["files"]
    blobs = {f"{f['repository']}/{f['commit']}/{f['path']}": f["git_blob"] for f in files}
    checked = 0
    for file in FILES.values():
        if file.git_blob:
            assert blobs[file.url.removeprefix("https://raw.githubusercontent.com/")] == file.git_blob
            checked += 1
    assert checked == 4
    assert FILES["vggish_pca"].expected.problem(golden / "audio/vggish_pca_params.npz") is None


def test_a_file_is_fetched_and_verified(server: str, tmp_path: Path, known: PublishedFile) -> None:
    (tmp_path / "served/net.pt").write_bytes(CONTENT)
    path = fetch("net", tmp_path / "weights", f"{server}/net.pt")
    assert path == tmp_path / "weights/net.pt"
    assert path.read_bytes() == CONTENT
    (tmp_path / "served/net.pt").write_bytes(b"other" * 100)
    assert fetch("net", tmp_path / "weights", f"{server}/net.pt") == path  # it is here already
    path.unlink()
    with pytest.raises(InputError, match="git blob id"):
        fetch("net", tmp_path / "weights", f"{server}/net.pt")
    assert not path.exists()


def test_names() -> None:
    assert local_path("published:i3d_rgb") == "resources/weights/rgb_imagenet.pt"
    assert local_path("published:vggish_tensorflow") == "resources/weights/vggish_model.pt"
    assert local_path("some/file.pt") == "some/file.pt"
    with pytest.raises(InputError, match="no such published weights; did you mean 'i3d_rgb'"):
        local_path("published:i3d_rbg")


def test_a_file_of_a_published_name_has_to_be_that_file(tmp_path: Path, known: PublishedFile) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(CONTENT)
    check_file(path)
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(InputError, match=r"net\.pt: weights: has the git blob id .* fetch it anew"):
        check_file(path)
    check_file(path.rename(tmp_path / "mine.pt"))
    with pytest.raises(InputError, match="but weights_sha256 asks for 00"):
        check_file(tmp_path / "mine.pt", "00")
    check_file(tmp_path / "mine.pt", hashlib.sha256((tmp_path / "mine.pt").read_bytes()).hexdigest().upper())


def test_a_backbone_is_not_built_from_another_file(tmp_path: Path) -> None:
    config = StreamConfig("audio", BackboneConfig("vggish", width=0.05), AudioGeometry())
    network, _ = build_backbone(config.backbone, "random:1")
    save_state(tmp_path / "mine.pt", network.state_dict())
    ready_backbone(config, str(tmp_path / "mine.pt"), "cpu")
    with pytest.raises(InputError, match="weights_sha256"):
        ready_backbone(config, str(tmp_path / "mine.pt"), "cpu", "ab" * 32)
    (tmp_path / "mine.pt").rename(tmp_path / "vggish-10086976.pth")
    with pytest.raises(InputError, match=r"has the SHA-256 .*, not 10086976.* as expected"):
        ready_backbone(config, str(tmp_path / "vggish-10086976.pth"), "cpu")
    with pytest.raises(InputError, match="does not exist; fetch it: `avfusion weights vggish`"):
        ready_backbone(config, "published:vggish", "cpu")
    advice = "`avfusion weights vggish_tensorflow`, then `avfusion weights --convert .*/vggish_model.ckpt`"
    with pytest.raises(InputError, match=f"vggish_model.pt: does not exist; fetch it: {advice}"):
        ready_backbone(config, "published:vggish_tensorflow", "cpu")


def test_self_check_hears_a_tone() -> None:
    """1 kHz is 1000 mel, the centre of the 20th of 64 bands; nothing changes in time."""
    tone = tone_examples()
    assert tone.shape == (3, 96, 64)
    bands = tone.mean(axis=(0, 1))
    assert bands.argmax() == 19
    assert tone[:, 1:-1].std(axis=1).max() < 0.3


def test_self_check_compares_with_what_is_published() -> None:
    network = VGGish(width=1 / 16).eval()
    identity = PcaParameters(np.eye(128), np.zeros(128))
    before, after = check_vggish(network, identity)
    assert not before.passed
    with torch.inference_mode():
        values = network(torch.from_numpy(tone_examples())).numpy()
    assert before.found == pytest.approx((values.mean(), values.std()))
    assert after.found == pytest.approx((127.5, 0), abs=10)
    assert "mean" in str(before) and "(published 0.131)" in str(before)
    assert Outcome("x", (0.14, 0.22), (0.131, 0.238)).passed
    assert not Outcome("x", (0.131, 0.2), (0.131, 0.238)).passed


def test_command_lists_and_fetches(
    server: str, tmp_path: Path, known: PublishedFile, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "--folder", str(tmp_path)]) == 0
    assert f"net.pt: not in {tmp_path}" in capsys.readouterr().out
    assert main(["weights", "nett", "--folder", str(tmp_path)]) == 1
    assert "did you mean 'net'" in capsys.readouterr().err
    (tmp_path / "net.pt").write_bytes(CONTENT)
    assert main(["weights", "net", "--folder", str(tmp_path)]) == 0
    assert main(["weights", "--folder", str(tmp_path)]) == 0
    assert "here, and right" in capsys.readouterr().out


def test_doctor_runs_the_self_check_where_weights_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "self-check" not in said and "`avfusion weights i3d_rgb`" in said
    network, _ = build_backbone(BackboneConfig("vggish"), "random:1")
    save_state(tmp_path / "vggish_model.pt", network.state_dict())
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "MISSING  self-check of vggish_model.pt: embeddings of a tone: mean" in said
    assert "these are other weights" in said
