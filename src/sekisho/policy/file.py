"""Reads and writes policy files: JSON, one site, node and edge a line, so that versions can be compared and edited.

The same policy is always written as the same bytes. A file is refused with one line when it is too large, damaged,
something else, from a newer Sekisho, or contradicts itself.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from sekisho.policy.model import VERSION, Policy, PolicyError
from sekisho.policy.validation import validate

SIZE_LIMIT = 64 << 20
"""Largest policy file accepted, in bytes; it is looked at before anything is parsed."""

# A list under one of these keys has one item a line, wherever it stands.
_LINED = frozenset(
    ("devices", "protocols", "sites", "globals", "entries", "nodes", "signals", "assumptions", "widened", "edges")
)


class _Head(msgspec.Struct):
    version: int


def read(path: str | Path) -> Policy:
    """Read and check a policy file; `PolicyError` names the file and what is wrong."""
    try:
        with open(path, "rb") as file:
            data = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise PolicyError(f"cannot be read: {error.strerror or error}", source=path) from error
    try:
        return decode(data)
    except PolicyError as error:
        raise PolicyError(error.message, source=path) from error


def decode(data: bytes) -> Policy:
    """The policy in `data`, the content of a file; `PolicyError` as for `read`, without the file's name."""
    if len(data) > SIZE_LIMIT:
        raise PolicyError(f"larger than {SIZE_LIMIT >> 20} MiB, the limit for a policy")
    try:
        version = msgspec.json.decode(data, type=_Head).version
        if version != VERSION:
            newer = "a newer Sekisho is needed" if version > VERSION else "it must be built again"
            raise PolicyError(f"policy of version {version}, this Sekisho reads version {VERSION}; {newer}")
        policy = msgspec.json.decode(data, type=Policy)
    except msgspec.ValidationError as error:
        raise PolicyError(f"not a valid policy: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PolicyError(f"not a policy (damaged, or not JSON): {error}") from error
    validate(policy)
    return policy


def encode(policy: Policy) -> bytes:
    """The file's content. `PolicyError` when the policy would not be read back."""
    validate(policy)
    return (_lay_out(msgspec.to_builtins(policy), "") + "\n").encode()


def write(policy: Policy, path: str | Path) -> None:
    """Write `policy` to `path`."""
    data = encode(policy)
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise PolicyError(f"cannot be written: {error.strerror or error}", source=path) from error


def schema() -> bytes:
    """The JSON Schema of the format."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Policy)), indent=1) + b"\n"


def _lay_out(value: Any, indent: str) -> str:
    if not isinstance(value, dict) or not any(isinstance(value.get(key), list | tuple) for key in _LINED):
        return json.dumps(value, ensure_ascii=False)
    fields = [(key, _field(key, item, indent + " ")) for key, item in value.items()]
    # Plain fields share the first line of an item; the lists follow, an item a line.
    return "{" + ", ".join(f"{json.dumps(key)}: {text}" for key, text in fields) + "}"


def _field(key: str, value: Any, indent: str) -> str:
    if key not in _LINED or not value:
        return json.dumps(value, ensure_ascii=False)
    return "[\n" + ",\n".join(indent + _lay_out(item, indent) for item in value) + "]"
