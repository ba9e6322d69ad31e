"""ZIP archives as the organisers of THUMOS14 publish theirs, encrypted in the traditional way, and evil ones.

The encryption is written here from PKWARE's description, byte by byte; `zipfile` can read what it makes, and
so checks it.
"""

import io
import random
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import cache

DATE, TIME = (34 << 9) | (11 << 5) | 24, (18 << 11) | (30 << 5)
VERSION, METHODS = 20, {False: 0, True: 8}


def encrypted_zip(
    members: Mapping[str, bytes], password: bytes, deflate: bool = False, streamed: bool = True
) -> bytes:
    """An archive of encrypted members.

    Args:
        deflate: compress them first.
        streamed: written as `zip` writes to a pipe: sizes behind the data, the password checked by the time.
    """
    out, directory = io.BytesIO(), []
    for name, content in members.items():
        crc, method = zlib.crc32(content), METHODS[deflate]
        body = _deflated(content) if deflate else content
        flags = 0x1 | (0x8 if streamed else 0)
        check = TIME >> 8 if streamed else crc >> 24
        header = random.Random(name).randbytes(11) + bytes([check])
        body = bytes(_encrypt(header + body, password))
        offset, raw = out.tell(), name.encode()
        known = (0, 0, 0) if streamed else (crc, len(body), len(content))
        out.write(
            struct.pack("<4s5H3I2H", b"PK\3\4", VERSION, flags, method, TIME, DATE, *known, len(raw), 4)
        )
        out.write(raw + b"\xca\xfe\0\0" + body)  # an extra field that the directory does not have
        if streamed:
            out.write(struct.pack("<4s3I", b"PK\7\10", crc, len(body), len(content)))
        directory.append(
            struct.pack(
                "<4s6H3I5H2I",
                b"PK\1\2",
                VERSION,
                VERSION,
                flags,
                method,
                TIME,
                DATE,
                crc,
                len(body),
                len(content),
                len(raw),
                0,
                0,
                0,
                0,
                0o100644 << 16,
                offset,
            )
            + raw
        )
    start = out.tell()
    out.write(b"".join(directory))
    sizes = (len(directory), len(directory), out.tell() - start, start)
    out.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, *sizes, 0))
    return out.getvalue()


def plain_zip(members: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """An archive without encryption, and perhaps with symbolic links."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
        for name, target in (links or {}).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, target)
    return out.getvalue()


def _deflated(content: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(content) + deflate.flush()


def _encrypt(content: bytes, password: bytes) -> Iterator[int]:
    table = _table()
    keys = [0x12345678, 0x23456789, 0x34567890]

    def update(byte: int) -> None:
        keys[0] = table[(keys[0] ^ byte) & 255] ^ keys[0] >> 8
        keys[1] = ((keys[1] + (keys[0] & 255)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = table[(keys[2] ^ keys[1] >> 24) & 255] ^ keys[2] >> 8

    for byte in password:
        update(byte)
    for byte in content:
        k = keys[2] & 0xFFFF | 2
        yield byte ^ (k * (k ^ 1) >> 8 & 255)
        update(byte)


@cache
def _table() -> list[int]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
        return value

    return [entry(index) for index in range(256)]
