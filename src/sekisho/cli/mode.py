"""`sekisho mode`: enforce a running virtual machine's policy, or only report."""

from typing import Annotated

import typer

from sekisho.cli.run import Mode


def mode(
    vm: Annotated[str, typer.Argument(help="The VM's name, as `sekisho status` shows it.")],
    to: Annotated[Mode, typer.Argument(help="audit: let everything through, and say what would be denied.")],
) -> None:
    """Switch a running virtual machine between enforcing its policy and auditing it, at once.

    Example: sekisho mode web-1 audit
    """
    from sekisho.monitor import control

    answer = control.ask(vm, {"command": "mode", "mode": to.value})
    print(f"{vm}: {answer['mode']}")
