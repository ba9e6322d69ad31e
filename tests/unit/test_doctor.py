"""`avfusion doctor`."""

import builtins
from typing import Any

import pytest

from avfusion.cli import doctor
from avfusion.cli.main import main
from avfusion.ops import extension_status


def test_everything_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in (
        "python",
        "torch",
        "h5py",
        "cuda",
        "operators",
        "h264",
        "libx264",
        "tvl1",
        "weights i3d_rgb",
    ):
        assert word in said
    assert "MISSING" not in said


def test_a_missing_package_is_named_with_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without_av(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".")[0] == "av":
            raise ModuleNotFoundError("No module named 'av'", name="av")
        return real(name, *args, **options)

    monkeypatch.setattr(doctor, "import_module", without_av)
    monkeypatch.setattr(builtins, "__import__", without_av)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "MISSING  av: cannot be imported (No module named 'av'); run `pip install -e .`" in said
    assert "codecs: cannot be looked at without av" in said
    assert "1 thing is missing" in said


def test_a_missing_codec_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "DECODERS", ("h264", "no_such_codec"))
    monkeypatch.setattr(doctor, "ENCODERS_OF_THE_DEMO", ("no_such_encoder",))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "MISSING  decoders: no_such_codec not there" in said
    assert "note     encoders: no_such_encoder not there; the demo cannot be rendered" in said


@pytest.mark.skipif(not extension_status().loaded, reason=str(extension_status()))
def test_operators_whose_errors_end_python_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "RAISES", "import os; os.abort()")
    assert main(["doctor"]) == 1
    assert "CXX=/usr/bin/g++" in capsys.readouterr().out


def test_what_is_optional_is_only_noted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "OPTIONAL", {"no-such-distribution": doctor.OPTIONAL["snakemake"]})
    assert main(["doctor"]) == 0
    assert "note     no-such-distribution: not installed" in capsys.readouterr().out
