"""Reasons that differ only in names and numbers are counted as one."""

import pytest

from sekisho.report.reasons import general


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("edx, rbx unknown where the function begins", "registers unknown where the function begins"),
        ("kmalloc@.text+0xd1e is stored to [alloc() +0x860]", "an object is stored to […]"),
        ("loop at .text.unlikely+0x3b", "loop at …"),
        ("fdc_state+0x10 takes too many values", "an object takes too many values"),
        ("copied at .text+0x3 from [argument 1 of f +0x8]", "copied at … from […]"),
        ("passed to sscanf", "passed to sscanf"),
        ("not finished within 60 s", "not finished within 60 s"),
    ],
)
def test_general_reasons(reason: str, expected: str) -> None:
    assert general(reason) == expected
