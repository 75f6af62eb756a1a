"""What real guests' floppy drivers did in the lab lies inside what the full analysis says of each instruction."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
from tests.values.recordings import Recording, read
from tests.values.sets import Allowed, allowed

from sekisho.errors import SekishoError
from sekisho.flow import recover
from sekisho.image import load
from sekisho.lab import debian
from sekisho.values.full import interpret

pytestmark = pytest.mark.download


@cache
def recorded(suite: str) -> tuple[Recording, dict[tuple[str, int], Allowed]]:
    """Return what was recorded, and by site what the analysis of the same driver file allows; skip if there is none."""
    driver, requests = read(suite)
    try:
        module = recover(load(debian.kernel(suite).module("floppy")))
    except SekishoError as error:
        pytest.skip(str(error))
    if module.image.sha256 != driver["sha256"]:
        pytest.skip(
            f"recorded with {driver['package']} {driver['version']}, but {suite} now has the floppy driver of "
            f"{module.image.release}: make the recording again (tests/values/recordings.py)"
        )
    sets = allowed(interpret(module))
    return requests, {module.image.location(address): found for address, found in sets.items()}


def outside(requests: Recording, sites: dict[tuple[str, int], Allowed]) -> Iterator[str]:
    """Yield what the analysis would not have had."""
    for request, written in requests.items():
        ports, values = sites.get((request.section, request.offset), ([], []))
        if not any(request.address in found for found in ports):
            yield f"{request}: the port is not in {ports}"
        for number in sorted(written):
            if not any(number in found for found in values):
                yield f"{request}: {number:#x} is not in {values}"


@pytest.mark.parametrize("suite", debian.SUITES)
def test_everything_recorded_lies_inside_the_analysis(suite: str) -> None:
    requests, sites = recorded(suite)
    assert len(requests) > 20
    assert list(outside(requests, sites)) == []


@pytest.mark.parametrize("suite", debian.SUITES)
def test_another_port_value_or_place_would_be_found_outside(suite: str) -> None:
    requests, sites = recorded(suite)
    request, number = next(
        (request, number)
        for request in requests
        for number in range(256)
        if request.direction == "out"
        and not any(number in found for found in sites[request.section, request.offset][1])
    )
    (some, *_) = requests[request]
    assert list(outside({request: {some}}, sites)) == []
    assert len(list(outside({request: {number}}, sites))) == 1
    assert len(list(outside({replace(request, address=request.address ^ 0x8000): {some}}, sites))) == 1
    assert len(list(outside({replace(request, offset=request.offset + 1): {some}}, sites))) == 2
