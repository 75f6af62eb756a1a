"""Known attacks are data, checked when they are read."""

import json
from pathlib import Path
from typing import Any

import pytest

from sekisho.errors import SekishoError
from sekisho.lab import attack
from sekisho.policy.catalogue import CATALOGUE


@pytest.mark.parametrize("name", attack.names())
def test_every_attack_has_requests_to_a_device_that_the_catalogue_knows(name: str) -> None:
    loaded = attack.load(name)
    assert loaded.device in CATALOGUE
    assert all(loaded.forms.values())
    assert loaded.references


def test_venom_comes_in_both_forms_with_thousands_of_bytes() -> None:
    forms = attack.load("venom").forms
    first = {name: [request.value for request in requests[:2]] for name, requests in forms.items()}
    assert first == {"read-id": [0x4A, 0x42], "drive-specification": [0x8E, 0x01]}
    assert all(len(requests) > 3000 for requests in forms.values())


def test_a_wide_request_touches_its_bytes_in_order() -> None:
    assert attack.Request("outw", 0x3F4, 0x0500).bytes() == [(0x3F4, 0x00), (0x3F5, 0x05)]
    assert attack.Request("inl", 0x1F0, None).bytes() == [(0x1F0 + i, None) for i in range(4)]


def test_equal_requests_are_sent_as_one_line() -> None:
    requests = attack.load("venom").forms["read-id"]
    assert attack.lines(requests) == b"outb 1013 74 1\noutb 1013 66 3000\n"


@pytest.mark.parametrize(
    "events",
    [
        [["outx", 1, 2]],
        [["outb", 1]],
        [["inb", 1, 2]],
        [["repeat", 10**9, ["outb", 1, 2]]],
        [["system", "rm"]],
        [3],
        [[]],
    ],
)
def test_a_malformed_attack_is_refused_with_the_files_name(tmp_path: Path, events: list[Any]) -> None:
    path = tmp_path / "bad.json"
    form = {"name": "a", "events": events}
    path.write_text(json.dumps({"title": "", "references": ["x"], "device": "isa-fdc", "forms": [form]}))
    with pytest.raises(SekishoError, match=r"bad\.json"):
        attack.load(str(path))


def test_an_unknown_attack_is_answered_with_the_known_ones() -> None:
    with pytest.raises(SekishoError, match="venom"):
        attack.load("nothing")
