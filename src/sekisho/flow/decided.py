"""Control flow without the ways that a conditional jump is taken never to go."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from sekisho.errors import SekishoError
from sekisho.flow.model import Block, Edge, Function, Module
from sekisho.flow.recovery import predecessors
from sekisho.image import Image

_NEAREST = 3
"""How many jumps are named to somebody who named none."""


def decided(module: Module, jumps: Mapping[str, bool]) -> Module:
    """Return the module in which these conditional jumps are always (True) or never taken.

    A jump is named as `Image.name` names its instruction: `rw_interrupt+0x2be`. Raises `SekishoError` for a name that
    no conditional jump has, or several have.
    """
    if not jumps:
        return module
    image = module.image
    blocks = {at: block for function in module.functions.values() for at, block in function.blocks.items()}
    branches = sorted({block.last.address for block in blocks.values() if block.exit == "branch"})
    taken: dict[int, bool] = {}
    for name, always in jumps.items():
        found = [address for address in branches if image.name(address) == name]
        if len(found) != 1:
            text = "several conditional jumps have this name" if found else _nearest(image, branches, name)
            raise SekishoError(f"{name}: {text}", source=image.path)
        taken[found[0]] = always
    functions = {address: _function(each, taken) for address, each in module.functions.items()}
    calls = {call.address for function in functions.values() for call in function.calls}
    callers = {address: tuple(at for at in places if at in calls) for address, places in module.callers.items()}
    return replace(module, functions=functions, callers={address: left for address, left in callers.items() if left})


def _nearest(image: Image, branches: Iterable[int], name: str) -> str:
    function, _, offset = name.rpartition("+") if "+" in name else (name, "", "0")
    start = image.named.get(function)
    there = [at for at in branches if (symbol := image.symbol_at(at)) is not None and symbol[0] == start]
    if start is None or not there:
        return "there is no conditional jump in a function of this name"
    wanted = start.address + int(offset, 16)
    near = sorted(sorted(there, key=lambda at: abs(at - wanted))[:_NEAREST])
    return f"no conditional jump is there; the nearest: {', '.join(map(image.name, near))}"


def _function(function: Function, taken: Mapping[int, bool]) -> Function:
    if all(block.last.address not in taken for block in function.blocks.values()):
        return function
    blocks = {
        address: _block(block, taken[block.last.address]) if block.last.address in taken else block
        for address, block in function.blocks.items()
    }
    before = {address: tuple(found) for address, found in predecessors(blocks).items()}
    return replace(function, blocks=blocks, predecessors=before)


def _block(block: Block, taken: bool) -> Block:
    left = tuple(each for each in block.edges if each.kind != ("fall" if taken else "taken"))
    if not taken:
        return replace(block, edges=left, exit="fall" if left else "stop", call=None)
    if block.call is not None:
        return replace(block, edges=left, exit="tail call")
    edges = tuple(Edge("jump", each.target) if each.kind == "taken" else each for each in left)
    return replace(block, edges=edges, exit="jump" if edges else "stop")
