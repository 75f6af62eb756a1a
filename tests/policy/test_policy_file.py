"""Policies are written the same way every time, read back as they were, and refused with one line when unsound."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sekisho.policy import Device, Policy, PolicyError, read, write
from sekisho.policy.catalogue import CATALOGUE, device
from sekisho.policy.file import SIZE_LIMIT, decode, encode, schema
from sekisho.protocol.model import (
    END,
    Bits,
    Constants,
    Edge,
    Entry,
    Expression,
    Global,
    Node,
    Note,
    Protocol,
    Signal,
    Site,
    Window,
)

PROTOCOL = Protocol(
    "floppy",
    None,
    (Site(".text", 0x10, 1, "output_byte", "pio", "out", 1, window=Window(8, "0f1f??90")),),
    (Global("reset", (0, 1), "a reset is pending"),),
    ("i",),
    (Entry("do_format", "task", (Edge("send", "reset == 0"),)),),
    (
        Node("send", 0, ("do_format",), ("0x3f5",), Constants((0x4D, 0x46)), "i", (Edge("wait"), Edge(END, "i == 3"))),
        Node("wait", edges=(Edge("send", "", {"i": "i + 1", "reset": "1"}),)),
    ),
    {"task": 1},
    (Signal(6, 1, {"reset": "0"}),),
    assumptions=(Note("one-controller", "only the first controller is used"),),
)
POLICY = Policy(1, comment="a test", devices=(device("isa-fdc"),), protocols=(PROTOCOL,))


def changed(**fields: Any) -> Policy:
    return replace(POLICY, protocols=(replace(PROTOCOL, **fields),))


def node(**fields: Any) -> Policy:
    return changed(nodes=(replace(PROTOCOL.nodes[0], **fields), PROTOCOL.nodes[1]))


def test_a_policy_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    write(POLICY, tmp_path / "policy")
    assert read(tmp_path / "policy") == POLICY
    assert encode(read(tmp_path / "policy")) == (tmp_path / "policy").read_bytes()


def test_each_node_site_and_edge_has_its_own_line() -> None:
    lines = encode(POLICY).decode().splitlines()
    assert [line for line in lines if '"do_format"' in line and '"site": 0' in line]
    assert sum('{"to": ' in line for line in lines) == 4
    # One edge added changes one line (and the comma before it).
    more = node(edges=(*PROTOCOL.nodes[0].edges, Edge("wait", "i == 7")))
    difference = set(encode(more).decode().splitlines()) ^ set(lines)
    assert len(difference) == 3


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (replace(POLICY, version=2), "version 2"),
        (
            replace(POLICY, devices=(*POLICY.devices, replace(device("isa-fdc"), name="x"))),
            "both own pio address 0x3f1",
        ),
        (replace(POLICY, devices=(Device("a", ("0x10-0x1",)),)), "not a range"),
        (replace(POLICY, devices=(Device("a", ("16-",)),)), "is not an address"),
        (replace(POLICY, devices=(Device("a", ("0x10000",)),)), "not a range of the pio space"),
        (replace(POLICY, protocols=(PROTOCOL, PROTOCOL)), "protocol are called 'floppy'"),
        (changed(nodes=(*PROTOCOL.nodes, PROTOCOL.nodes[0])), "node are called 'send'"),
        (changed(globals=(Global("i"),)), "variable are called 'i'"),
        (changed(locals=("i", "value")), "cannot be called 'value'"),
        (changed(locals=("i", "a b")), "cannot be called 'a b'"),
        (changed(slots={"task": 99}), "99 slots"),
        (changed(signals=(Signal(6, 1, {"i": "0"}),)), "assigns 'i'"),
        (changed(entries=(Entry("e", "task", (Edge("nowhere"),)),)), "leads to 'nowhere'"),
        (node(site=5), "no site 5"),
        (node(bind="unheard"), "binds 'unheard'"),
        (node(addresses=("3f5",)), "'3f5' is not an address"),
        (node(value=Constants((1 << 32,))), "32-bit"),
        (node(value=Bits(-1, 0)), "32-bit"),
        (node(value=Expression(("x + 1",))), "reads 'x'"),
        (node(edges=(Edge(END, "value == 1"),)), "reads 'value'"),
        (node(edges=(Edge(END, "__import__('os')"),)), "Call is not allowed"),
        (node(edges=(Edge(END, "i =="),)), "not an expression"),
        (node(id="two words"), "cannot be called"),
        (changed(sites=(replace(PROTOCOL.sites[0], width=3),)), "3 bytes wide"),
        (changed(sites=(replace(PROTOCOL.sites[0], window=Window(0, "zz")),)), "window"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused_by_name(policy: Policy, message: str) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        encode(policy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged, or not JSON"),
        (b"\x7fELF\x02\x01", "damaged, or not JSON"),
        (b'{"version": 1', "damaged, or not JSON"),
        (b'{"name": "something else"}', "not a valid policy"),
        (b"[1, 2]", "not a valid policy"),
        (b'{"version": 7, "rules": []}', "a newer Sekisho is needed"),
        (b'{"version": 1, "on_denail": "drop"}', "on_denail"),
        (b'{"version": 1, "on_denial": "explode"}', "on_denial"),
        (b"[" * 100000, "damaged, or not JSON|not a valid policy"),
    ],
)
def test_damaged_and_foreign_files_are_refused_with_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "policy"
    path.write_bytes(content)
    with pytest.raises(PolicyError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_larger_than_the_limit_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "policy"
    with open(path, "wb") as file:
        file.truncate(SIZE_LIMIT + 1)
    with pytest.raises(PolicyError, match="larger than"):
        read(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_policy_is_refused_or_sound_but_never_a_traceback(data: st.DataObject) -> None:
    content = bytearray(encode(POLICY))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(PolicyError):
        decode(bytes(content))


def test_the_schema_in_the_documentation_is_current_and_fits_a_policy() -> None:
    recorded = Path(__file__).parents[2] / "docs" / "policy.schema.json"
    assert recorded.read_bytes() == schema(), "run: python -m sekisho.policy.schema > docs/policy.schema.json"
    jsonschema.validate(json.loads(encode(POLICY)), json.loads(schema()))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"version": 1, "devices": 3}, json.loads(schema()))


def test_every_device_of_the_catalogue_is_sound() -> None:
    for name, entry in CATALOGUE.items():
        assert encode(Policy(1, devices=(entry,)))
        assert device(name) is entry
    with pytest.raises(PolicyError, match="isa-fdc"):
        device("nonesuch")
