"""The default method: abstract interpretation of the whole module, and what it says of every I/O instruction.

`interpret` gives the fixed point itself (nodes, ways, memory), from which protocols are sliced; `analyze` gives the
grades that people and reports see.
"""

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from sekisho.errors import SekishoError
from sekisho.flow.model import Function, Module
from sekisho.image import Image, Symbol
from sekisho.lift import Instruction
from sekisho.values import abstract, condition, expression
from sekisho.values.abstract import constant, top
from sekisho.values.grade import Grade, grade_port, grade_value
from sekisho.values.interpreter import Activation, Interpreter, Node, OutOfTimeError
from sekisho.values.model import Analysis, Kind, SiteAnalysis, SiteContext, Widening
from sekisho.values.options import Options
from sekisho.values.parameters import fixed, parameters

if TYPE_CHECKING:
    from sekisho.values.slices import Slicer

_WAYS = 16
"""Call strings that are listed for one context."""

SLICE = 256
"""Instructions of a slice after which those further away are left out; `Slicer` has them all."""
_UNREAD = "here is no instruction that is known: what it does, and what comes behind it, is left out"
_ORDER: tuple[Kind, ...] = ("constant set", "bits", "expression", "payload", "unknown")


def interpret(module: Module, options: Options | None = None, kind: type[Interpreter] = Interpreter) -> Interpreter:
    """Return the finished interpretation of a module. `complete` is false on it if the time limit was reached.

    Raises `SekishoError` if `options` takes a function as unused that the kernel could not call, or a variable as
    constant that is not the driver's.
    """
    _forget()
    options = options or Options()
    interpreter = kind(module, options)
    if options.seconds is not None:
        interpreter.deadline = time.process_time() + options.seconds
    _set_parameters(interpreter, options)
    _set_variables(interpreter, options)
    try:
        for entry in module.entries:
            if entry.kind in ("init", "exit"):
                interpreter.enter(entry.address, "init" if entry.kind == "init" else "exit", f"module {entry.kind}")
            elif entry.kind == "exported":
                interpreter.enter(entry.address, "task", "exported")
        interpreter.run()
        while interpreter.enter_taken():
            interpreter.run()
    except OutOfTimeError:
        interpreter.complete = False
        return interpreter
    called = {origin.name for origin in interpreter.origins.values() if origin.kind != "init"}
    if strangers := (options.unused - interpreter.left_out) | (options.unused_in_init - called):
        names = interpreter.left_out | called
        raise SekishoError(
            f"the kernel does not call {min(strangers)!r}; of this driver it calls {', '.join(sorted(names))}",
            source=module.image.path,
        )
    return interpreter


def _forget() -> None:
    """Begin anew: no result depends on the analysis before."""
    expression.forget()
    abstract.forget()
    condition.forget()


def _set_parameters(interpreter: Interpreter, options: Options) -> None:
    """Let the module parameters be what `options` says."""
    image, memory = interpreter.image, interpreter.memory
    given = fixed(image, options.params)
    for parameter in parameters(image):
        values = given.get(parameter.name, ())
        for address, value in zip(parameter.addresses, values, strict=False):
            memory.initial[address] = parameter.size, constant(value)
        if values and parameter.number is not None:
            memory.initial[parameter.number] = 4, constant(len(values))
        if values or options.assume_default_params:
            continue
        for address in parameter.addresses:
            memory.initial[address] = parameter.size, top(parameter.size)
            interpreter.settable[address] = parameter.name
        if parameter.number is not None:
            memory.initial[parameter.number] = 4, top(4)


def _set_variables(interpreter: Interpreter, options: Options) -> None:
    """Let variables be what `options` says that they always are, and arrays have one element in use."""
    image, memory = interpreter.image, interpreter.memory
    for name, value in options.always.items():
        for each in _variables(image, name):
            if not 0 <= value < 1 << (8 * each.size):
                raise SekishoError(f"variable {name} has {each.size} bytes: {value:#x} does not fit", source=image.path)
            memory.always[each.address] = each.size, value
    for name, count in options.single.items():
        for each in _variables(image, name):
            if count < 2 or not each.size or each.size % count:
                text = f"{name} is no array of {count} elements: it has {each.size} bytes"
                raise SekishoError(text, source=image.path)
            memory.single[each.address] = each.size // count


def _variables(image: Image, name: str) -> list[Symbol]:
    found = [each for each in image.symbols if each.name == name and each.kind == "object" and not each.extern]
    if not found:
        raise SekishoError(f"the driver has no variable {name!r}", source=image.path)
    return found


def analyze(module: Module, options: Options | None = None, slices: bool = False) -> Analysis:
    """Return what every I/O instruction of a module may do; with `slices` also what decides it, which takes longer."""
    if not slices:
        return _report(_complete(interpret(module, options)))
    found, slicer = explained(module, options)
    sites = tuple(
        replace(site, slice=_nearest(slicer.slice(instruction)))
        for site, (_, instruction) in zip(found.sites, module.sites, strict=True)
    )
    return replace(found, sites=sites)


def _nearest(groups: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the first groups of a slice: one, and more while they have no more than `SLICE` instructions together."""
    found: list[int] = []
    for group in groups:
        if found and len(found) + len(group) > SLICE:
            break
        found += group
    return tuple(sorted(found))


def explained(module: Module, options: Options | None = None) -> tuple[Analysis, "Slicer"]:
    """Return what every I/O instruction may do, and what finds the slices that decide it."""
    from sekisho.values.slices import Recorder, Slicer

    recorder = interpret(module, options, Recorder)
    assert isinstance(recorder, Recorder)
    return _report(_complete(recorder)), Slicer(recorder)


def _complete(interpreter: Interpreter) -> Interpreter:
    """Look at what no entry leads to as well."""
    if interpreter.complete:
        interpreter.enter_unclaimed()
        try:
            interpreter.run()
        except OutOfTimeError:
            interpreter.complete = False
    return interpreter


def _report(interpreter: Interpreter) -> Analysis:
    """Return the grades of an interpretation, or, if it was not finished, what the code around each site says."""
    if interpreter.complete:
        return report(interpreter)
    from sekisho.values.local import WHY, Local

    options = interpreter.options
    limit = _limit(interpreter)
    _forget()
    # Neither rounds of loops nor contexts are told apart: this is to end soon.
    local = Local(interpreter.module, replace(options, visits=Options().visits, rounds=1, depth=0, contexts=1))
    if options.seconds is not None:
        local.deadline = time.process_time() + options.seconds / 2
    local.enter_all()
    try:
        local.run()
    except OutOfTimeError:
        return report(interpreter)
    found = report(local)
    return replace(found, unfinished=limit, widenings=(Widening(None, f"{limit}: {WHY}"), *found.widenings))


def report(interpreter: Interpreter) -> Analysis:
    """Return the grades of a finished interpretation."""
    at: dict[int, list[Node]] = {}
    for node in interpreter.nodes.values():
        if node.stretch.access is not None and node.state is not None:
            seen = at.setdefault(node.stretch.address, [])
            if not interpreter.hypothetical or node.number < interpreter.hypothetical or not seen:
                seen.append(node)
    sites = tuple(
        _site(interpreter, function, instruction, at.get(instruction.address, []))
        for function, instruction in interpreter.module.sites
    )
    unread = [(first, _UNREAD) for first, _ in interpreter.module.undecoded]
    widenings = tuple(Widening(address, cause) for address, cause in sorted([*unread, *interpreter.widened]))
    limit = None if interpreter.complete else _limit(interpreter)
    if limit is not None:
        widenings = (Widening(None, f"{limit}: every site may do anything"), *widenings)
    return Analysis("full", sites, widenings, interpreter.options.assumptions(), limit)


def _limit(interpreter: Interpreter) -> str:
    """Return which limit ended the interpretation before its fixed point."""
    options = interpreter.options
    if interpreter.deadline is not None and time.process_time() >= interpreter.deadline:
        return f"not finished within {options.seconds:g} s"
    return f"not finished after {options.visits:,} steps"


def _site(interpreter: Interpreter, function: Function, instruction: Instruction, nodes: list[Node]) -> SiteAnalysis:
    access = instruction.access
    assert access is not None
    ports: list[Grade] = []
    values: list[Grade] = []
    contexts: list[SiteContext] = []
    for node in nodes:
        for touch in node.touches:
            if touch.step.kind not in ("in", "out", "ins", "outs"):
                continue
            port = grade_port(interpreter, touch.operands[0], touch.environment)
            ports.append(port)
            value: Grade | None = None
            if touch.step.kind == "out":
                value = grade_value(interpreter, touch.operands[1], touch.environment, access.width)
            elif touch.step.kind == "outs":
                value = Grade((f"payload from {interpreter.describe(touch.operands[1])}",), "payload")
            if value is not None:
                values.append(value)
            known = port.resolved and (value is None or value.resolved)
            contexts += [
                SiteContext(
                    calls,
                    port.shown,
                    () if value is None else value.shown,
                    (),
                    known,
                    port.reason or (value.reason if value else None),
                )
                for calls in _call_strings(node)
            ]
    section, offset = interpreter.image.location(instruction.address)
    writes = access.direction == "out"
    reason: str | None = None
    if not interpreter.complete:
        ports = [Grade((), "unknown", _limit(interpreter))]
        values = list(ports)
    elif not ports:
        reason = "never reached under the assumptions"
    port_kind, value_kind = _worst(ports), _worst(values) if writes else None
    resolved = port_kind != "unknown" and value_kind != "unknown"
    if not resolved:
        reason = next((g.reason for g in (*ports, *values) if g.kind == "unknown"), None)
    return SiteAnalysis(
        address=instruction.address,
        section=section,
        offset=offset,
        length=instruction.length,
        function=function.name,
        direction=access.direction,
        width=access.width,
        string=access.string,
        ports=_merged(ports),
        port_kind=port_kind,
        values=_merged(values) if writes else (),
        value_kind=value_kind,
        resolved=resolved,
        reason=reason,
        slice=(),
        contexts=tuple(sorted(set(contexts), key=lambda c: (c.call_string, str(c.ports), str(c.values)))),
    )


def _call_strings(node: Node) -> list[tuple[int, ...]]:
    """Return the calls that lead to a node, outermost first: the shortest ways, up to a number of them."""
    found: list[tuple[int, ...]] = []
    ways: list[tuple[tuple[int, ...], tuple[Activation, ...]]] = [((), (node.activation,))]
    for calls, (activation, *inner) in ways:
        if activation.parent is None:
            found.append(calls)
        elif len(ways) < _WAYS * _WAYS:
            for link in activation.links.values():
                call = link.caller.stretch.call
                if call is not None and link.activation is not activation and link.activation not in inner:
                    ways.append(((call.address, *calls), (link.activation, activation, *inner)))
        if len(found) == _WAYS:
            break
    return found or [(node.activation.site,)]


def _worst(grades: list[Grade]) -> Kind:
    return max((grade.kind for grade in grades), key=_ORDER.index, default="constant set")


def _merged(grades: list[Grade]) -> tuple[int | str, ...]:
    numbers = sorted({item for grade in grades for item in grade.shown if isinstance(item, int)})
    texts = sorted({item for grade in grades for item in grade.shown if isinstance(item, str)})
    return (*numbers, *texts)
