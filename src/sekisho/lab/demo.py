"""Sekisho's main job as a story in a terminal: `./dev demo`.

A driver goes in, a filter comes out; a guest that uses the driver does not notice it, and VENOM does. Every step is a
command that the reader can repeat. Exit code 0 only if all of it came true.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from sekisho.errors import SekishoError
from sekisho.lab import cache, debian, ide

_SEKISHO = (sys.executable, "-c", "from sekisho.cli import main; main()")
_ATTACK = "venom"


class Demo:
    """The story's teller: shows a command, runs it, and keeps count of what did not come true."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.broken: list[str] = []

    def command(self, *words: str, shown: str) -> str:
        """Run `sekisho` with `words`, announced as `shown`; returns what it prints. An error ends the story."""
        self.console.print(f"\n[bold]$ sekisho {shown}[/bold]", highlight=False)
        start = time.monotonic()
        with self.console.status("running …"):
            done = subprocess.run([*_SEKISHO, *words], stdout=subprocess.PIPE, text=True, check=False)
        self.console.print(f"  [dim]{time.monotonic() - start:.0f} s[/dim]")
        if done.returncode > 1 or not done.stdout.strip():
            raise SekishoError(f"sekisho {shown}: exit code {done.returncode}")
        return done.stdout

    def claim(self, holds: bool, text: str) -> None:
        """Tell a result, and remember it if it is not as promised."""
        self.console.print(f"  [green]✔[/green] {text}" if holds else f"  [red]✘ {text}[/red]", highlight=False)
        if not holds:
            self.broken.append(text)


def tell(demo: Demo) -> None:
    """Tell the story."""
    say = demo.console.print
    kernel = debian.kernel()
    driver = kernel.module("floppy")
    policy = cache.folder("lab", "demo") / "floppy.json"
    say(f"[bold]1. The driver.[/bold] Debian's own floppy.ko of Linux {kernel.release}; no source, no specification.")
    found = json.loads(demo.command("analyze", "--json", str(driver), shown="analyze floppy.ko"))["files"][0]
    sites = found["io_sites"]
    resolved = sum(site["resolved"] for site in sites)
    demo.claim(len(sites) > 0, f"{found['instructions']:,} instructions, {len(sites)} of them make I/O requests")
    demo.claim(resolved > 0, f"ports and values are resolved for {resolved} of them")

    say("\n[bold]2. The filter.[/bold] Which requests the driver can make, in which order, with which values.")
    words = ["build", str(driver), "--device", "isa-fdc", "-o", str(policy)]
    demo.command(*words, shown="build floppy.ko --device isa-fdc -o floppy.json")
    demo.claim(policy.stat().st_size > 0, f"a policy that can be read and edited: {policy}")

    say("\n[bold]3. Without the filter.[/bold] A Linux guest uses its floppy, then sends VENOM (CVE-2015-3456).")
    report = _lab(demo, shown=f"lab floppy --attack {_ATTACK}")
    demo.claim(report["workload_ok"], f"the floppy works: {_steps(report)}")
    reached = report["attack_reached_device"]
    demo.claim(reached > 0, f"VENOM: {reached:,} of its {report['attack_events']:,} requests reached QEMU's controller")

    say("\n[bold]4. With the filter.[/bold] The same guest, the same QEMU; the filter stands between KVM and QEMU.")
    report = _lab(demo, "--policy", str(policy), shown=f"lab floppy --policy floppy.json --attack {_ATTACK}")
    guarded, reached = report["guarded_events"], report["attack_reached_device"]
    demo.claim(report["workload_ok"], f"the floppy works: {_steps(report)}")
    demo.claim(
        guarded >= 2000 and report["denied"] == 0, f"{guarded:,} requests to the device, {report['denied']} denied"
    )
    denied = report["attack_denied"] == report["attack_events"] > 0
    demo.claim(denied, f"VENOM: {report['attack_denied']:,} of {report['attack_events']:,} requests denied")
    demo.claim(reached == 0, f"{reached} reached QEMU's controller")
    for denial in report["denials"][:1]:
        request = f"{denial['direction']} {denial['address']} from ip {denial['ip']}"
        say(f"  [dim]the first denial: {request}: {denial['reason']}[/dim]", highlight=False)
    _crash(demo)


def _crash(demo: Demo) -> None:
    demo.console.print(
        "\n[bold]5. A crash of this very QEMU.[/bold] Launchpad 1681439, sent by a ROM to the IDE controller."
    )
    if not ide.bare_metal_works():
        demo.console.print(
            "  left out: /dev/kvm runs no bare-metal guest here (sekisho lab ide --host nested does it, slowly)"
        )
        return
    policy = cache.folder("lab", "demo") / "pata.json"
    words = [
        "build",
        str(debian.grub() / "pata.mod"),
        "--device",
        "piix-ide",
        "--match",
        "sequence",
        "--firmware",
        "deny",
    ]
    shown = "build pata.mod --device piix-ide --match sequence --firmware deny -o pata.json"
    demo.command(*words, "-o", str(policy), shown=shown)
    words = ["lab", "ide", "--attack", "lp1681439", "--json"]
    bare = json.loads(demo.command(*words, shown="lab ide --attack lp1681439"))["runs"][0]
    demo.claim(bare["code"] < 0, f"without the filter QEMU {bare['outcome']}")
    shown = "lab ide --attack lp1681439 --policy pata.json"
    kept = json.loads(demo.command(*words, "--policy", str(policy), shown=shown))["runs"][0]
    denied = f"{kept['denied']} of its {kept['guarded']} requests to the controller denied"
    demo.claim(kept["lived"], f"with GRUB's own IDE driver as the filter it {kept['outcome']}: {denied}")


def _lab(demo: Demo, *words: str, shown: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        demo.command("lab", "floppy", *words, "--attack", _ATTACK, "--json", shown=shown)
    )
    return found


def _steps(report: dict[str, Any]) -> str:
    return ", ".join(name if result == "ok" else f"{name}: {result}" for name, result in report["steps"].items())


def main() -> int:
    """Tell the story on standard output; returns the exit code."""
    demo = Demo(Console())
    try:
        tell(demo)
    except (SekishoError, KeyError, ValueError, OSError) as error:
        demo.console.print(f"[red]sekisho: {error}[/red]")
        return 1
    if demo.broken:
        demo.console.print(f"\n[red]{len(demo.broken)} of these did not come true.[/red]")
        return 1
    demo.console.print(f"\nThe policy stays in {Path(cache.folder('lab', 'demo'))}. Try: sekisho show floppy.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
