"""These tests check that damaged files of compiled code are compiled again, whatever the damage.

They also check that an error of the compiler or the cache is not reported as a mistake in the world.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import programs

from rl_lab.checks.doctor import run_checks
from rl_lab.core.errors import UsageError
from rl_lab.core.world import WorldError
from rl_lab.engine import compiler, diagnostics, first_start, numba_environment, world_registry
from rl_lab.engine.batch import Batch
from rl_lab.engine.compiler import CompilerError

TEMPLATE = "from rl_lab.engine.template_context import decorators\n\njit = decorators().jit\n\n\n"
TEMPLATE += "@jit\ndef twice(x):\n    return 2 * x\n\n\ndef thrice(low, high, x):\n    return 3 * x\n"


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder that holds one compiled module, and the file it was made of."""
    folder = tmp_path_factory.mktemp("warm")
    (folder / "tiny.py").write_text(TEMPLATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        check_use(folder)
        yield folder


def check_use(folder: Path) -> Path:
    """Load and call the compiled functions, as every process does; return the folder that they are kept in."""
    module = compiler.instantiate_templates("tiny", (folder / "tiny.py",))
    assert module.twice(21) == 42
    assert compiler.address(module.thrice) != 0
    return Path(str(module.__file__)).parent


def contents(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in folder.rglob("*") if file.is_file()}


DAMAGE = st.tuples(st.integers(0, 99), st.floats(0, 0.999), st.sampled_from(["emptied", "cut", "one byte", "zeros"]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(DAMAGE, min_size=1, max_size=3))
def test_any_damaged_file_is_made_again(warm: Path, damage: list[tuple[int, float, str]]) -> None:
    folder = check_use(warm)
    whole = contents(folder)
    assert {Path(name).suffix for name in whole} >= {".py", ".nbi", ".nbc"}
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for number, share, kind in damage:
        file = files[number % len(files)]
        old = file.read_bytes()
        at = int(share * len(old))
        if file.suffix == ".pyc" and kind in ("one byte", "zeros"):
            kind = "cut"  # Python's own format has no checksum
        if kind == "one byte" and old:
            file.write_bytes(old[:at] + bytes([old[at] ^ 0x41]) + old[at + 1 :])
        else:
            file.write_bytes(b"" if kind == "emptied" else old[:at] if kind == "cut" else bytes(len(old)))
    check_use(warm)
    check_use(warm)
    assert {name for name, size in contents(folder).items() if size} == set(whole), "not made again, or left in pieces"


def test_a_command_goes_on_after_its_whole_cache_was_emptied(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = [sys.executable, "-m", "rl_lab.cli", "evaluate", "random", "world=catch", "evaluation.episodes=4"]

    def run() -> str:
        done = programs.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first, files = run(), list((tmp_path / "cache").rglob("*.nb?"))
    assert files
    for file in files:
        file.write_bytes(b"")
    assert run() == first
    assert all(file.stat().st_size for file in files)


def test_a_full_disk_stops_no_command(warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(check_use(warm) / "__pycache__")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    from numba.core.caching import IndexDataCacheFile

    monkeypatch.setattr(IndexDataCacheFile, "_save_data", full)
    check_use(warm)


@pytest.mark.parametrize("setting", ["NUMBA_DISABLE_JIT=1", "NUMBA_CPU_NAME=foo"])
def test_a_setting_with_which_nothing_can_be_compiled_is_one_line(setting: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "rl_lab.cli", "evaluate", "random", "world=catch"]
    name, _, value = setting.partition("=")
    environment = {**os.environ, name: value}
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert name in done.stderr and "catch does not" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "is_refused"),
    [
        ("CPU_NAME", "native", True),
        ("CPU_NAME", "generic", False),
        ("CPU_FEATURES", "+nonsense", True),
        ("CPU_FEATURES", "nonsense", True),  # with which LLVM aborts the process
        ("CPU_FEATURES", "", False),
    ],
)
def test_processors_and_features_that_llvm_does_not_know_are_refused(
    name: str, value: str, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numba

    monkeypatch.setattr(numba.config, name, value)
    with pytest.raises(UsageError, match=f"NUMBA_{name}=") if is_refused else nullcontext():
        numba_environment.check()


def test_a_switched_off_compiler_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    compiler.compiled_loops.cache_clear()
    first_start.examined_loops.cache_clear()
    with pytest.raises(UsageError, match="unset it"):
        Batch(world_registry.load("catch"), 1)
    Batch(world_registry.load("catch"), 1, plain=True).reset()  # what a debugger wants works
    failed = {check["name"]: check for check in run_checks() if check["status"] == "fail"}
    assert "NUMBA_DISABLE_JIT" in failed["compiler"]["detail"] and "unset" in failed["compiler"]["advice"]


def test_what_the_compiler_cannot_do_is_not_told_as_a_mistake_in_a_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error from numba's own code that is not about a kernel, where the kernels run as plain Python."""
    from numba.core.caching import Cache

    def broken(*arguments: object) -> None:
        raise RuntimeError("LLVM is out of sorts")

    world = world_registry.load("catch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # of its own: else the machine code is loaded already
    monkeypatch.setattr(Cache, "_index_key", broken)  # called by loading, which is healed, and by saving, which is not
    compiler.compiled_loops.cache_clear()
    first_start.examined_loops.cache_clear()
    with pytest.raises(CompilerError, match="catch.*LLVM is out of sorts.*doctor") as caught:
        Batch(world, 1).reset()
    assert not isinstance(caught.value, WorldError) and "\n" not in str(caught.value)
    assert diagnostics.explain_compile_error(world, ValueError("not numba's"), lambda: None) is None


def test_a_world_that_passed_other_rules_is_examined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world, examined = world_registry.load("catch"), list[str]()
    monkeypatch.setattr(first_start, "check_plain_execution", lambda world, what, make_plain: examined.append(what))

    def start() -> list[str]:
        examined.clear()
        first_start.examine_once.cache_clear()
        for what in ("rules", "resets", "steps"):
            first_start.examine_once(world, what, Batch)
        return list(examined)

    start()
    assert start() == []
    version = uuid.uuid4().hex[:12]
    monkeypatch.setattr(first_start, "version_of_the_checks", lambda: version)
    assert start() == ["rules", "resets", "steps"]
    assert start() == []
    first_start.examine_once.cache_clear()
