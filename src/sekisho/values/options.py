"""What the user of the analysis may decide: parameters, assumptions, and limits."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sekisho.errors import SekishoError


@dataclass(frozen=True)
class Options:
    """Settings of one analysis.

    `params` fixes module parameters (see `parameters.fixed`) to values, of an array to its first elements'; with
    `assume_default_params` the others have their initial values, without it they are anything. `init_first`: nothing
    else of the driver runs before its init function first waits, makes a request or returns. `no_wrap`: adding an
    offset to a port does not wrap round (a base of -1 marks an absent device). `base_set`: a variable that holds the
    base of ports is not used before it is set (its first 0 is no base). `index_in_array`: an index, or a pointer that
    walks, stays inside its object. `unknown_pointers`: a store through an unknown pointer does not hit the driver's
    private variables. `unused` names functions that the kernel could call and nobody does: they are left out, with all
    that only they do; `unused_in_init` those that nobody calls while init runs. `always` names variables of the driver
    that hold one value whenever they are looked at (a mode that nobody uses). `single` names arrays of the driver, each
    with the number of its elements: a number from outside with which the driver picks one of them picks the first (of
    several devices there is one). `jumps` names conditional jumps that are always (True) or never taken; this only says
    it, `flow.decided` takes the other way out of the module. `seconds` limits the time; what is not finished then is
    widened.
    """

    params: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    assume_default_params: bool = True
    init_first: bool = True
    no_wrap: bool = True
    base_set: bool = True
    index_in_array: bool = True
    unknown_pointers: bool = True
    unused: frozenset[str] = frozenset()
    unused_in_init: frozenset[str] = frozenset()
    always: Mapping[str, int] = field(default_factory=dict)
    single: Mapping[str, int] = field(default_factory=dict)
    jumps: Mapping[str, bool] = field(default_factory=dict)
    depth: int = 12
    contexts: int = 2500
    rounds: int = 16
    visits: int = 400_000
    seconds: float | None = None

    def assumptions(self) -> tuple[tuple[str, str], ...]:
        """Return by name what the analysis takes for granted under these settings, and what that means."""
        found = [(name, text) for name, (switch, text) in ASSUMPTIONS.items() if getattr(self, switch)]
        if self.params:
            shown = (f"{name}={','.join(map(hex, values))}" for name, values in sorted(self.params.items()))
            found.append(("parameters", f"the driver is loaded with {' '.join(shown)}"))
        if self.unused:
            found.append(("unused-entries", f"nobody calls {', '.join(sorted(self.unused))}"))
        if self.unused_in_init:
            found.append(("unused-in-init", f"nobody calls {', '.join(sorted(self.unused_in_init))} while init runs"))
        if self.always:
            shown = (f"{name} is {value:#x}" for name, value in sorted(self.always.items()))
            found.append(("constant-variables", f"whenever it is looked at, {', '.join(shown)}"))
        if self.single:
            text = f"a number from outside that picks an element of {', '.join(sorted(self.single))} picks the first"
            found.append(("single-elements", text))
        for word, truth in (("always", True), ("never", False)):
            if names := sorted(name for name, way in self.jumps.items() if way == truth):
                found.append((f"jumps-{word}-taken", f"the driver {word} jumps at {', '.join(names)}"))
        return tuple(sorted(found))

    def without(self, names: Collection[str]) -> "Options":
        """Return these settings without the assumptions of these names; raises `SekishoError` for others."""
        for name in names:
            if name not in ASSUMPTIONS:
                raise SekishoError(f"there is no assumption {name} to switch off; there are {', '.join(ASSUMPTIONS)}")
        changes: dict[str, Any] = {ASSUMPTIONS[name][0]: False for name in names}
        return replace(self, **changes)


ASSUMPTIONS: dict[str, tuple[str, str]] = {
    "base-set": ("base_set", "a variable that holds a device's base is set before it is used: its first 0 is no base"),
    "default-parameters": (
        "assume_default_params",
        "module parameters that are not fixed have their initial values",
    ),
    "index-in-array": ("index_in_array", "an index, or a pointer that walks, stays inside its object"),
    "init-first": (
        "init_first",
        "nothing else of the driver runs before its init waits, makes a request or ends, nor if that does not return 0",
    ),
    "no-wrap": ("no_wrap", "adding an offset to a port does not wrap round"),
    "unknown-pointers": (
        "unknown_pointers",
        "a store through an unknown pointer does not hit the driver's private variables",
    ),
}
"""By name: the field of `Options` that switches it, and what it means."""
