"""A guest without an operating system: a 64 KiB ROM for QEMU's `-bios` that sends an attack's requests.

Made from machine code directly, so that no assembler is needed. It runs in 16-bit real mode from the reset vector, and
says when it is done.
"""

import struct
from collections.abc import Iterable

from sekisho.errors import SekishoError
from sekisho.lab.attack import Request

DONE = b"\x33"
"""What the ROM tells QEMU's debug console (port 0xe9) after its last request."""

_SIZE, _START, _VECTOR = 0x10000, 0, 0xFFF0
_SETTLE = 200_000


def rom(requests: Iterable[Request], turns: int) -> bytes:
    """Return the ROM that makes `requests`, with `turns` turns of an empty loop after each, and resets the machine.

    `SekishoError` for a request that real mode cannot make, or too many of them.
    """
    code = b"\x31\xc0\x8e\xd8"  # xor ax, ax; mov ds, ax
    for request in requests:
        code += _request(request) + (_delay(turns) if turns else b"")
    code += _delay(_SETTLE)
    code += b"\xb0" + DONE + b"\xe6\xe9"  # mov al, DONE; out 0xe9, al
    # By a reset and not by a debugging port: an attack may move another device onto that.
    code += b"\xba\xf9\x0c\xb0\x06\xee" + b"\xf4\xeb\xfd"  # mov dx, 0xcf9; mov al, 6; out dx, al; hlt; jmp to hlt
    if len(code) > _VECTOR:
        raise SekishoError(f"the attack has {len(code)} bytes of code; a ROM takes {_VECTOR}")
    image = bytearray(_SIZE)
    image[_START : _START + len(code)] = code
    image[_VECTOR : _VECTOR + 5] = struct.pack("<BHH", 0xEA, _START, 0xF000)  # ljmp 0xf000:_START
    return bytes(image)


def _request(request: Request) -> bytes:
    value = request.value
    if request.width > 4:
        raise SekishoError(f"a ROM in real mode cannot make the request {request.name}")
    if request.port:
        put = b"" if value is None else b"\x66\xb8" + struct.pack("<I", value)  # mov eax, value
        instruction = 0xEC if value is None else 0xEE
        word = request.width > 1
        prefix = b"\x66" if request.width == 4 else b""
        return b"\xba" + struct.pack("<H", request.address) + put + prefix + bytes([instruction + word])
    if value is None or request.address > 0xFFFF or request.width != 4:
        raise SekishoError(f"a ROM in real mode cannot make the request {request.name} {request.address:#x}")
    return b"\x66\xc7\x06" + struct.pack("<HI", request.address, value)  # mov dword [address], value


def _delay(turns: int) -> bytes:
    return b"\x66\xb9" + struct.pack("<I", turns) + b"\x67\xe2\xfd"  # mov ecx, turns; loop here
