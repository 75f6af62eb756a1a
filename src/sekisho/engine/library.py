"""Opens the native engine. The declarations are read from `engine.h` itself, installed beside the library, so that the
two cannot drift apart; a library of another version is refused.
"""

import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

from cffi import FFI

import sekisho.engine
from sekisho.errors import SekishoError

_NAME = "libsekisho-engine.so"


@cache
def library() -> tuple[FFI, Any]:
    """The cffi instance and the library; `SekishoError` when it is missing or of another version."""
    # An editable installation keeps the native files apart from the Python ones.
    folders = [*map(Path, sekisho.engine.__path__), Path(sysconfig.get_path("platlib")) / "sekisho" / "engine"]
    folder = next((folder for folder in folders if (folder / _NAME).exists()), None)
    if folder is None:
        raise SekishoError(f"{_NAME} is not installed; build the package (./dev setup)")
    header = (folder / "engine.h").read_text()
    ffi = FFI()
    ffi.cdef(header[header.index("/* cffi: begin */") : header.index("/* cffi: end */")])
    native: Any = ffi.dlopen(str(folder / _NAME))
    if native.sekisho_engine_abi() != native.SEKISHO_ABI:
        raise SekishoError(f"{folder / _NAME} does not fit engine.h; build the package again")
    return ffi, native
