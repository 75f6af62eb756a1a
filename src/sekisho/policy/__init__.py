"""The versioned file that holds protocols, and its compilation to the engine's table."""

from sekisho.policy.file import read, write
from sekisho.policy.model import Device, Policy, PolicyError
from sekisho.policy.table import compile  # noqa: A004 - the verb of the domain

__all__ = ["Device", "Policy", "PolicyError", "compile", "read", "write"]
