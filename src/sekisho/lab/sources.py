"""The machine's Debian mirrors: its apt sources read in both formats, and written again for another suite.

The lab names no mirror of its own. Where the machine gets its Debian from, the lab gets the other suites.
"""

import re
from pathlib import Path

from sekisho.errors import SekishoError

APT = Path("/etc/apt")

# Kept when an entry is rewritten: how the mirror is trusted and reached.
_KEPT = ("Signed-By", "Trusted", "Allow-Insecure", "By-Hash", "Check-Date")

_SUITE = r"(bullseye|bookworm|trixie|forky|sid|stable|oldstable|testing|unstable)(-(updates|security|backports))?"


def paragraphs(text: str) -> list[dict[str, str]]:
    """Parse deb822 text (sources, package lists) into one dictionary for each paragraph.

    Continuation lines stay in the value with their newlines; comment lines are dropped (sources.list(5)).
    """
    found = []
    for block in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if line[0] in " \t":
                if name:
                    fields[name] += "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            found.append(fields)
    return found


def one_line(text: str) -> list[dict[str, str]]:
    """Parse sources in the one-line format into the same dictionaries as `paragraphs`."""
    names = {name.lower(): name for name in _KEPT}
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if match is None:
            continue
        options, uri, suite, components = match.groups()
        fields = {"Types": "deb", "URIs": uri, "Suites": suite, "Components": components.strip()}
        for option in (options or "").split():
            key, _, value = option.partition("=")
            fields[names.get(key.lower(), key)] = value.replace(",", " ")
        found.append(fields)
    return found


def machine(apt: Path = APT) -> list[dict[str, str]]:
    """Return the enabled binary sources of this machine, from `sources.list` and `sources.list.d`."""
    found = []
    for path in (apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))):
        if path.suffix in (".list", ".sources") and path.is_file():
            text = path.read_text(errors="replace")
            found += paragraphs(text) if path.suffix == ".sources" else one_line(text)
    return [
        fields
        for fields in found
        if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes").lower() not in ("no", "false")
    ]


def for_suite(suite: str, apt: Path = APT) -> str:
    """Return deb822 sources for `suite` with its updates and security pockets, on this machine's own mirrors.

    Raises `SekishoError` where the machine has no Debian source.
    """
    written = []
    for fields in machine(apt):
        names = fields.get("Suites", "").split()
        # Debian's own archive is told from third parties' by the names of its suites and components.
        debian = any(re.fullmatch(_SUITE, name) for name in names) and "main" in fields.get("Components", "").split()
        if not debian or not fields.get("URIs"):
            continue
        security = any("security" in name for name in names)
        backports = suite.endswith("-backports")
        if security and backports:
            continue
        pockets = [f"{suite}-security"] if security else [suite] if backports else [suite, f"{suite}-updates"]
        entry = {"Types": "deb", "URIs": fields["URIs"], "Suites": " ".join(pockets), "Components": "main"}
        entry |= {name: fields[name] for name in _KEPT if name in fields}
        text = "".join(f"{name}: {value}\n" for name, value in entry.items())
        if text not in written:
            written.append(text)
    if not written:
        raise SekishoError("no Debian mirror among the machine's package sources", source=apt)
    return "\n".join(written)
