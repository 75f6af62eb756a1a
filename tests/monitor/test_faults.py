"""`docs/faults.md` names a test for every fault: each of them exists."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_every_fault_has_a_test_that_exists() -> None:
    text = (HERE.parents[1] / "docs" / "faults.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| way", "| fault"))]
    assert len(rows) > 40
    for row in rows:
        named = re.findall(r"`(\w+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (HERE / file).read_text(), row
