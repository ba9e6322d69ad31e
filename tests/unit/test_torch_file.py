"""Files of torch that other people wrote, old ones among them."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from avfusion.data.torch_file import load_torch
from avfusion.errors import InputError

VALUES = np.array([[0.1, -0.2], [0.3, 0.4]])


def text(content: bytes) -> bytes:
    """A text as Python 2 pickles it."""
    return b"U" + bytes([len(content)]) + content


def python2(path: Path, cut: int | None = None) -> Path:
    """What torch < 1.6 on Python 2 writes of ``{"epoch": 5, "reg_stats": VALUES}``."""
    kind = b"cnumpy\ndtype\n" + text(b"f8") + b"K\x00K\x01\x87R(K\x03" + text(b"<")
    kind += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array += b"(K\x01K\x02K\x02\x86" + kind + b"\x89" + text(VALUES.tobytes()) + b"tb"
    content = b"\x80\x02}(" + text(b"epoch") + b"K\x05" + text(b"reg_stats") + array + b"u."
    sizes = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, sizes))
    path.write_bytes((head + content + pickle.dumps([], 2))[:cut])
    return path


@pytest.mark.filterwarnings("error")
def test_a_file_of_python_2(tmp_path: Path) -> None:
    content = load_torch(python2(tmp_path / "old.pth"))
    assert content["epoch"] == 5
    np.testing.assert_array_equal(content["reg_stats"], VALUES)


def test_a_truncated_file(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"old\.pth: (is no file of torch|cannot be read as a file of torch)"
    ):
        load_torch(python2(tmp_path / "old.pth", cut=-40))
    torch.save(torch.zeros(1000), tmp_path / "new.pth")
    (tmp_path / "new.pth").write_bytes((tmp_path / "new.pth").read_bytes()[:2000])
    with pytest.raises(
        InputError, match=r"new\.pth: (is no file of torch|cannot be read as a file of torch)"
    ):
        load_torch(tmp_path / "new.pth")
    with pytest.raises(InputError, match="cannot be read"):
        load_torch(tmp_path)


def test_objects_in_numpy_arrays_are_refused(tmp_path: Path) -> None:
    torch.save(np.array([{"a": 1}], dtype=object), tmp_path / "objects.pth")
    with pytest.raises(InputError, match=r"holds objects other than tensors \(numpy\.dtypes\.ObjectDType\)"):
        load_torch(tmp_path / "objects.pth")
