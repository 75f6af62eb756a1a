"""What the user of the analysis may decide: parameters, assumptions, and limits."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Options:
    """Settings of one analysis.

    `params` fixes module parameters to values; with `assume_default_params` the others have their initial values,
    without it they are anything. `init_first`: nothing else of the driver runs before its init function first waits,
    makes a request or returns. `no_wrap`: adding an offset to a port does not wrap round (a base of -1 marks
    an absent device). `seconds` limits the time; what is not finished then is widened.
    """

    params: dict[str, int] = field(default_factory=dict)
    assume_default_params: bool = True
    init_first: bool = True
    no_wrap: bool = True
    depth: int = 12
    contexts: int = 2500
    rounds: int = 16
    visits: int = 400_000
    seconds: float | None = None

    def assumptions(self) -> tuple[tuple[str, str], ...]:
        """Return by name what the analysis takes for granted under these settings, and what that means."""
        found = [
            ("index-in-array", "an index, or a pointer that walks, stays inside its object"),
            ("unknown-pointers", "a store through an unknown pointer does not hit the driver's private variables"),
        ]
        if self.assume_default_params:
            fixed = "".join(f", {name}={value:#x}" for name, value in sorted(self.params.items()))
            found.append(("default-parameters", f"module parameters have their initial values{fixed}"))
        if self.init_first:
            found.append(
                ("init-first", "nothing else of the driver runs before its init waits, makes a request or ends")
            )
        if self.no_wrap:
            found.append(("no-wrap", "adding an offset to a port does not wrap round"))
        return tuple(sorted(found))
