"""Reads a driver file into memory: plain, or compressed as distributions ship kernel modules (.ko.xz, .ko.zst).

The compression is recognised by its magic number, not by the file's name. Sizes are bounded before and while
decompressing, since a driver file is hostile input.
"""

import lzma
import zlib
from pathlib import Path
from typing import Protocol

from sekisho.errors import SekishoError

SIZE_LIMIT = 256 << 20
"""Largest file, compressed or not, in bytes. The largest module of Debian's kernels has some 30 MiB with debug data."""

XZ_MAGIC = b"\xfd7zXZ\0"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
GZIP_MAGIC = b"\x1f\x8b\x08"


class ImageError(SekishoError):
    """A driver file that cannot be loaded."""


def read_driver(path: Path) -> bytes:
    """Return the uncompressed contents of the driver file at `path`; raises `ImageError`."""
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise ImageError(error.strerror or "cannot be read", source=path) from None
    if len(content) > SIZE_LIMIT:
        raise ImageError(f"larger than {SIZE_LIMIT >> 20} MiB", source=path)
    try:
        if content.startswith(XZ_MAGIC):
            content = _expand(lzma.LZMADecompressor(memlimit=SIZE_LIMIT), content)
        elif content.startswith(ZSTD_MAGIC):
            content = _unzstd(content)
        elif content.startswith(GZIP_MAGIC):
            content = _expand(zlib.decompressobj(wbits=31), content)
    except (lzma.LZMAError, zlib.error, EOFError, MemoryError) as error:
        raise ImageError(f"damaged compressed file ({error})", source=path) from None
    if len(content) > SIZE_LIMIT:
        raise ImageError(f"larger than {SIZE_LIMIT >> 20} MiB when uncompressed", source=path)
    return content


class _Decompressor(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...
    @property
    def eof(self) -> bool: ...


def _expand(decompressor: _Decompressor, content: bytes) -> bytes:
    expanded = decompressor.decompress(content, SIZE_LIMIT + 1)
    if not decompressor.eof and len(expanded) <= SIZE_LIMIT:
        raise EOFError("cut off")
    return expanded


def _unzstd(content: bytes) -> bytes:
    import zstandard  # its import is not worth paying for by the plain files

    try:
        expected = zstandard.frame_content_size(content)
        with zstandard.ZstdDecompressor(max_window_size=SIZE_LIMIT >> 1).stream_reader(content) as reader:
            expanded = reader.read(SIZE_LIMIT + 1)
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from None
    if len(expanded) < min(expected, SIZE_LIMIT):
        raise EOFError("cut off")
    return expanded
