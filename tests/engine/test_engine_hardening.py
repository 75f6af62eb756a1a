"""The engine under fuzzers, sanitizers, threads and valgrind, and with system calls forbidden.

SEKISHO_FUZZ_SECONDS lengthens the fuzzing (20 seconds for each of the three targets otherwise).
"""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from crowded import crowded
from msgspec.structs import replace
from test_engine_protocols import ARMED, COMMAND, GATED, NESTED, policy

from sekisho.policy import compile as compile_policy
from sekisho.policy.table import MAGIC

NATIVE = Path(__file__).parents[2] / "native"
ENGINE = sorted(path for path in NATIVE.glob("engine*.c") if path.name != "engine_replay.c")
SECONDS = int(os.environ.get("SEKISHO_FUZZ_SECONDS", "20"))
TABLES = {
    "command": policy(COMMAND),
    "several": policy(
        *(replace(rules, name=f"driver{number}") for number, rules in enumerate((NESTED, GATED, ARMED, COMMAND))),
        match="ip",
        budget=3,
    ),
    "small": policy(NESTED, budget=2),
    "empty": policy(),
    "crowded": policy(crowded(40)),
    "crowded and small": policy(crowded(8, 3), budget=4),
}

needs_clang = pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    for name, rules in TABLES.items():
        (folder / name).write_bytes(compile_policy(rules))
    return folder


def build(folder: Path, name: str, *flags: str, compiler: str = "clang") -> Path:
    program = folder / name
    sources = [NATIVE / "fuzz" / f"{name}.c", NATIVE / "fuzz" / "drive.c", *ENGINE]
    command = [compiler, "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{NATIVE}", *flags, "-pthread"]
    subprocess.run([*command, *map(str, sources), "-o", str(program)], check=True)
    return program


@needs_clang
@pytest.mark.parametrize(
    ("target", "table"), [("fuzz_table", ""), ("fuzz_events", "several"), ("fuzz_events", "crowded and small")]
)
def test_fuzzing_finds_nothing(target: str, table: str, tmp_path: Path, tables: Path) -> None:
    # One of the policies with a store that fills up again and again.
    small = ["-DSTORED_SETS=64u"] if table == "crowded and small" else []
    program = build(tmp_path, target, "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", *small)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    if target == "fuzz_table":
        shutil.copytree(tables, corpus, dirs_exist_ok=True)
    else:  # what longer runs have found, minimised
        found = NATIVE / "fuzz" / "corpus" / f"{table.replace(' ', '-')}.zip"
        zipfile.ZipFile(found).extractall(corpus)
    limits = [f"-max_total_time={SECONDS}", "-max_len=16384", "-timeout=300", "-rss_limit_mb=2048", "-close_fd_mask=1"]
    result = subprocess.run(
        [program, *limits, str(corpus)],
        env={**os.environ, "SEKISHO_FUZZ_TABLE": str(tables / table)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    print(result.stderr.splitlines()[-1])  # how many runs


@needs_clang
def test_eight_threads_share_an_engine_without_a_race(tmp_path: Path, tables: Path) -> None:
    program = build(tmp_path, "threads", "-fsanitize=thread")
    # ThreadSanitizer cannot place its shadow memory under some kernels' address randomisation.
    result = subprocess.run(["setarch", "-R", program, tables / "several"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert int(result.stdout) > 10000


def test_judging_events_makes_no_system_call_and_allocates_nothing(tmp_path: Path, tables: Path) -> None:
    wraps = [f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "realloc")]
    program = build(tmp_path, "silence", *wraps, compiler="gcc")
    for table in TABLES:
        done = subprocess.run([program, tables / table], stdout=subprocess.PIPE)
        assert done.returncode == 0
        assert int.from_bytes(done.stdout, "little") > 100 or table == "empty"
    assert subprocess.run([program, tables / "command", "allocate"]).returncode == 1


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
def test_valgrind_finds_no_leak_and_no_stray_access(tmp_path: Path, tables: Path) -> None:
    program = build(tmp_path, "threads", compiler="gcc")
    # What is still reachable counts: the program's own variable points to the engine until the end.
    leaks = ["--leak-check=full", "--show-leak-kinds=all", "--errors-for-leak-kinds=all"]
    command = ["valgrind", "-q", "--error-exitcode=9", *leaks, program, tables / "several"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]


def test_every_damaged_byte_of_a_table_is_refused(tmp_path: Path, tables: Path) -> None:
    from sekisho.engine import Engine
    from sekisho.errors import SekishoError

    table = (tables / "command").read_bytes()
    assert table.startswith(MAGIC)
    for position in range(0, len(table), 7):
        damaged = bytearray(table)
        damaged[position] ^= 0x41
        with pytest.raises(SekishoError, match="table"):
            Engine(bytes(damaged))
    for size in (0, 1, 19, 100, len(table) - 1):
        with pytest.raises(SekishoError, match="table"):
            Engine(table[:size])
