"""`./dev bench [--json] [NAME…]`: runs the measurements of this folder and prints what they found.

Each module here (but this one) has `measure() -> dict[str, float | int | str]`; its name is the key in the JSON.
"""

import argparse
import json
import pkgutil
from importlib import import_module

import bench


def main() -> None:
    """Run what was named, or everything."""
    names = sorted(module.name for module in pkgutil.iter_modules(bench.__path__) if not module.name.startswith("_"))
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measure Sekisho on this machine.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(names)}; all if left out")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"no measurement {min(unknown)!r}; there are {', '.join(names)}")
    results = {}
    for name in arguments.names or names:
        results[name] = import_module(f"bench.{name}").measure()
        if not arguments.json:
            print(name)
            for key, value in results[name].items():
                print(f"  {key:32} {value}")
    if arguments.json:
        print(json.dumps(results, indent=1))


main()
