"""`sekisho reload`: another policy for a running virtual machine."""

from pathlib import Path
from typing import Annotated

import typer


def reload(
    vm: Annotated[str, typer.Argument(help="The VM's name, as `sekisho status` shows it.")],
    policy: Annotated[list[Path], typer.Argument(help="Policy files.")],
) -> None:
    """Give a running virtual machine another policy. What went before is forgotten: every state is possible at first.

    Example: sekisho reload web-1 floppy.json
    """
    from base64 import b64encode

    from sekisho.monitor import control
    from sekisho.monitor.union import unite
    from sekisho.policy import compile as compile_policy
    from sekisho.policy import read

    united = unite([read(path) for path in policy])
    request = {
        "command": "reload",
        "table": b64encode(compile_policy(united)).decode(),
        "devices": [device.name for device in united.devices],
        "policy": ", ".join(map(str, policy)),
    }
    answer = control.ask(vm, request)
    when = "in force" if answer["applied"] else "in force from the guest's next request on"
    print(f"{vm}: {answer['policy']} is {when}")
