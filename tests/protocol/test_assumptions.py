"""A policy names what it takes for granted; what is switched off is not named."""

from pathlib import Path

import pytest

from sekisho.flow import recover
from sekisho.image import load
from sekisho.protocol.build import build
from sekisho.values import full
from sekisho.values.options import Options
from tests.protocol.test_control import assemble

ALWAYS = {"index-in-array", "unknown-pointers", "slots"}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (Options(), ALWAYS | {"base-set", "default-parameters", "init-first", "no-wrap"}),
        (Options(assume_default_params=False, base_set=False, init_first=False, no_wrap=False), ALWAYS),
    ],
)
def test_the_assumptions_in_force_are_in_the_protocol(options: Options, names: set[str], tmp_path: Path) -> None:
    module = recover(load(assemble(tmp_path, "out %al,$1; ret")))
    protocol = build(module, full.analyze(module, options), name="driver")
    assert {note.name for note in protocol.assumptions} == names
