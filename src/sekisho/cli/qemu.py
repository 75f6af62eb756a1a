"""`sekisho-qemu`: the emulator that a libvirt domain names, `<emulator>/usr/local/bin/sekisho-qemu</emulator>`."""

import os
import sys
from functools import partial
from pathlib import Path


def main() -> None:
    """Become QEMU with the options given, under the policy of the domain that they describe."""
    serve(sys.argv[1:])


def serve(options: list[str], folder: Path | None = None) -> None:
    """Becomes QEMU under the filter, or ends with exit code 2 and one line why. `folder` holds the settings."""
    from sekisho.engine.recorded import rehearsal
    from sekisho.errors import SekishoError
    from sekisho.monitor import domain
    from sekisho.monitor.launcher import Options, become
    from sekisho.monitor.union import unite
    from sekisho.policy import compile as compile_policy
    from sekisho.policy import read
    from sekisho.trace import read as read_trace

    try:
        if domain.is_question(options):
            os.execv(domain.EMULATOR, [str(domain.EMULATOR), *options])
        path, settings = domain.find(options, folder or domain.FOLDER)
        files = domain.files(path, settings.policies)
        united = unite([read(file) for file in files])
        launch = Options(
            devices=tuple(device.name for device in united.devices),
            policy=", ".join(map(str, files)),
            audit=settings.mode == "audit",
            pausable=united.on_denial == "pause",
            log=Path(settings.log) if settings.log else None,
            handshake=settings.handshake,
            rehearsal=rehearsal(united, [partial(read_trace, file) for file in domain.files(path, settings.rehearse)]),
        )
        become([settings.emulator, *options], compile_policy(united), launch)
    except (SekishoError, OSError) as error:
        print(f"sekisho: {error}", file=sys.stderr)
        raise SystemExit(2) from error
