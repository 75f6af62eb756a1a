"""The user's cache folder: where the lab keeps what is dear to get and can be got again.

Everything in it may be deleted at any time. What appears under its final name is complete: it is built under another
name and renamed, and a lock keeps two processes from building the same thing.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sekisho.errors import SekishoError


def folder(*parts: str) -> Path:
    """Return (and create) the folder `parts` below `$XDG_CACHE_HOME/sekisho` (or `~/.cache/sekisho`)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The base directory specification: a relative path there is to be ignored.
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    path = root.joinpath("sekisho", *parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SekishoError(f"cannot create the cache folder: {error.strerror}", source=path) from error
    return path


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; waits for another process that holds it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target` that becomes `target` when the block ends well, and vanishes if not.

    The caller holds a lock: what a killed predecessor left under the draft's name is cleared away.
    """
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        draft.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
