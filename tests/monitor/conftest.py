"""Tests marked `kvm` are skipped, with the reason, where no bare-metal guest runs."""

import pytest

from tests.monitor.bare_metal import why_no_kvm


@pytest.fixture(scope="session")
def _kvm_fault(tmp_path_factory: pytest.TempPathFactory) -> str:
    return why_no_kvm(tmp_path_factory.mktemp("probe"))


@pytest.fixture(autouse=True)
def _needs_kvm(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("kvm") and (fault := request.getfixturevalue("_kvm_fault")):
        pytest.skip(fault)
