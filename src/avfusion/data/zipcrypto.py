"""The traditional encryption of ZIP archives, in which THUMOS14's videos come, at the speed of a disk.

`zipfile` can do this too, a byte at a time in Python: hours for the videos that are needed. The cipher is
inherently serial (every byte changes the key of the next), so it is compiled. It protects nothing against
anybody who wants in; here it only is the form in which files come.
"""

import zlib
from functools import cache

import numba
import numpy as np
from numpy.typing import NDArray

HEADER = 12  # random bytes before the data, the last of which tells a wrong password


class Decrypter:
    """Decrypts one member of an archive, piece by piece, in order.

    Args:
        password: of the archive.
    """

    def __init__(self, password: bytes) -> None:
        self._keys = np.array([0x12345678, 0x23456789, 0x34567890], dtype=np.uint64)
        _kernel()(np.frombuffer(password, np.uint8), np.empty(0, np.uint8), self._keys, _table())

    def decrypt(self, data: bytes) -> bytes:
        """The plain bytes of the next piece."""
        plain = np.empty(len(data), np.uint8)
        _kernel()(np.frombuffer(data, np.uint8), plain, self._keys, _table())
        return plain.tobytes()


@cache
def _kernel():  # type: ignore[no-untyped-def]
    """The compiled loop; compiling takes a second, so only who needs it waits."""
    return numba.njit(_run)


def _run(
    data: NDArray[np.uint8], plain: NDArray[np.uint8], keys: NDArray[np.uint64], table: NDArray[np.uint64]
) -> None:
    """Decrypt `data` into `plain`; if `plain` is empty, `data` is a password that only changes the keys."""
    key0, key1, key2 = keys[0], keys[1], keys[2]
    byte_mask, one, eight = np.uint64(255), np.uint64(1), np.uint64(8)
    for i in range(data.size):
        byte = np.uint64(data[i])
        if plain.size:
            k = (key2 | np.uint64(2)) & np.uint64(0xFFFF)
            byte ^= ((k * (k ^ one)) >> eight) & byte_mask
            plain[i] = byte
        key0 = table[(key0 ^ byte) & byte_mask] ^ (key0 >> eight)
        key1 = ((key1 + (key0 & byte_mask)) * np.uint64(134775813) + one) & np.uint64(0xFFFFFFFF)
        key2 = table[(key2 ^ (key1 >> np.uint64(24))) & byte_mask] ^ (key2 >> eight)
    keys[0], keys[1], keys[2] = key0, key1, key2


@cache
def _table() -> NDArray[np.uint64]:
    """What a byte does to a CRC of 0. (zlib inverts the CRC before and after; the cipher does not.)"""
    start = 0xFFFFFFFF
    return np.array([zlib.crc32(bytes([i]), start) ^ start for i in range(256)], dtype=np.uint64)
