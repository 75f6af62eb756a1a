"""The short form of `./dev bench soak`: resets, mode switches and reloads under load lose and falsely deny nothing."""

from pathlib import Path

import pytest
from bench.soak import soak

pytestmark = pytest.mark.kvm


def test_a_short_soak_loses_nothing_denies_nothing_else_and_does_not_grow(tmp_path: Path) -> None:
    found = soak(tmp_path, resets=50, switches=20, reloads=5)
    wanted = dict.fromkeys(("resets_unseen", "lost", "denied_falsely", "allowed_falsely"), 0)
    assert {name: found[name] for name in wanted} == wanted
    # A policy leaked by each reload would be more.
    assert int(found["vmm_grown_kib"]) < 4096
    assert int(found["launcher_grown_kib"]) < 4096
