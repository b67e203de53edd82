"""Mistakes that users of Gymnasium make in a world's file: each is one line, with file, line and a fix.

None of these compiles anything: the source is looked at, and played as plain Python, before.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.walk_world import DEF_OF_STEP, LINE_OF_OBSERVE, LINE_OF_RESET, MOVE_IN_STEP, RETURN_OF_STEP, WALK

from rl_lab.checks.subject import QUICK
from rl_lab.checks.suite import check_world
from rl_lab.cli import main
from rl_lab.core.world import World, WorldError
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch
from rl_lab.engine.kernel_rules import violations

# What is replaced in the file, by what, and the words that must be said; the line is the first that differs.
MISTAKES: dict[str, tuple[str, str, str]] = {
    # What step returns.
    "five values": (
        RETURN_OF_STEP,
        "    return s.x, 0.0, False, False, {}\n",
        "step returns .reward, terminated.: 5 values",
    ),
    "four values": (
        RETURN_OF_STEP,
        "    return 0.0, False, False, {}\n",
        "step returns .reward, terminated.: 4 values",
    ),
    "three values": (RETURN_OF_STEP, "    return 0.0, False, {}\n", "3 values .*observe"),
    "only a reward": (RETURN_OF_STEP, "    return 1.0\n", "return reward, terminated"),
    "only whether it ended": (RETURN_OF_STEP, "    return s.x == 9\n", "return reward, terminated"),
    "the two swapped": (RETURN_OF_STEP, "    return False, 0.0\n", "terminated comes first"),
    "the two swapped, computed": (RETURN_OF_STEP, "    return s.x == 9, 1.0 / 9\n", "terminated comes first"),
    "the two swapped, as variables": (
        RETURN_OF_STEP,
        "    over = s.x == 9\n    gain = 0.5\n    return over, gain\n",
        "terminated comes first",
    ),
    "terminated as a float": (RETURN_OF_STEP, "    return 1.0, 0.0\n", "True or False, not 0.0"),
    "terminated left out": (RETURN_OF_STEP, "    return 1.0, None\n", "True or False, not None"),
    "no reward": (RETURN_OF_STEP, "    return None, False\n", "reward is a number, not None"),
    "nothing at all": (RETURN_OF_STEP, "    s.speed = 0.0\n", "end with `return reward, terminated`"),
    "a loop that can be left without a return": (
        RETURN_OF_STEP,
        "    while True:\n        if s.x == 9:\n            break\n        return 1.0, True\n",
        "on some way through",
    ),
    "a loop that never begins": (RETURN_OF_STEP, "    while False:\n        return 1.0, True\n", "on some way through"),
    "a way out without a return": (
        RETURN_OF_STEP,
        "    if s.x == 9:\n        return 1.0, True\n",
        "on some way through",
    ),
    "a bare return": (RETURN_OF_STEP, "    return\n", "return reward, terminated"),
    "a list": (RETURN_OF_STEP, "    return [0.0, False]\n", "return reward, terminated"),
    "a dictionary": (RETURN_OF_STEP, '    return {"reward": 0.0}\n', "return reward, terminated"),
    "a field that is an array": (
        RETURN_OF_STEP,
        "    return s.seen, False\n",
        "reward is a number, not s.seen, which is several",
    ),
    "a reward for each": (RETURN_OF_STEP, "    return (1.0, -1.0), False\n", r"reward is a number, not .1\.0, -1\.0.,"),
    "an end for each": (RETURN_OF_STEP, "    return 1.0, (True, False)\n", "terminated is True or False, not"),
    # What the other kernels return.
    "reset returns observation and info": (
        LINE_OF_RESET,
        f"{LINE_OF_RESET}    return s.x, {{}}\n",
        "reset returns nothing.*observe",
    ),
    "observe returns an array": (LINE_OF_OBSERVE, "    return np.array([s.x])\n", "observe returns nothing.*out.0. ="),
    "observe names an array out": (LINE_OF_OBSERVE, "    out = np.zeros(2)\n", "out\\[0\\] = ..."),
    "an expert without an action": ("    return 2\n", "    return None\n", "number of one action"),
    # What is no scalar code.
    "np.clip": (MOVE_IN_STEP, "    s.x = np.clip(s.x + action, 0, 9)\n", r"min\(max\(x, low\), high\)"),
    "np.random": (LINE_OF_RESET, "    s.x = np.random.randint(3)\n", "integers"),
    "a generator of numpy": (LINE_OF_RESET, "    s.x = np.random.default_rng().integers(3)\n", "integers"),
    "random": (LINE_OF_RESET, "    s.x = random.randrange(3)\n", "integers"),
    "self.np_random": (LINE_OF_RESET, "    s.x = self.np_random.integers(3)\n", "a kernel is a function"),
    "np.zeros": (MOVE_IN_STEP, "    grid = np.zeros((3, 3))\n", "makes an array at each call"),
    "arithmetic of arrays": (MOVE_IN_STEP, "    s.speed = max(s.seen[1:] - s.seen[:9])\n", "s.seen.1:. is an array"),
    "the observation compared": (LINE_OF_OBSERVE, "    out[0] = 1.0 if out > 0 else 0.0\n", "out is an array"),
    "a name that numpy has no more": (MOVE_IN_STEP, "    s.x = np.int(s.x)\n", "numpy has no 'int'"),
    "np.linalg": (MOVE_IN_STEP, "    s.speed = np.linalg.norm(s.seen)\n", "math.sqrt"),
    "a list inside": (MOVE_IN_STEP, "    moves = [-1, 0, 1]\n", r"use a tuple"),
    "a comprehension": (MOVE_IN_STEP, "    best = max([k for k in range(3)])\n", "comprehension"),
    "a dictionary inside": (MOVE_IN_STEP, "    info = {}\n", "a dict"),
    "a set": (MOVE_IN_STEP, "    if action in {0, 1}:\n        s.x = 0\n", "a set"),
    "a text": (MOVE_IN_STEP, '    if action == "left":\n        s.x = 0\n', "kernels have no text"),
    "an f-string": (MOVE_IN_STEP, '    name = f"{action}"\n', "f-string"),
    "print": (MOVE_IN_STEP, f"    print(s.x)\n{MOVE_IN_STEP}", "print"),
    "assert": (MOVE_IN_STEP, f"    assert action < 3\n{MOVE_IN_STEP}", "assert: .*bounded"),
    "raise": (MOVE_IN_STEP, "    raise ValueError(action)\n", "raise: "),
    "try": (MOVE_IN_STEP, f"    try:\n    {MOVE_IN_STEP}    except IndexError:\n        s.x = 0\n", "try: .*`if`"),
    "an import inside": (MOVE_IN_STEP, "    import math\n", "at the top of the file"),
    "a global counter": (MOVE_IN_STEP, f"    global TABLE\n{MOVE_IN_STEP}", "a field of State"),
    "state in a global": (MOVE_IN_STEP, "    BEST[0] = 1.0\n", "writes to BEST, which is global"),
    "a global list": (MOVE_IN_STEP, "    s.x = TABLE[action]\n", "make it a tuple"),
    "a global dictionary": (MOVE_IN_STEP, "    s.x = NAMES[action]\n", "global dict"),
    "constants of a class": (
        MOVE_IN_STEP,
        "    s.x = Config.SIZE\n",
        "Config is a class: .*write SIZE = 10 at the top",
    ),
    "constants of an object": (MOVE_IN_STEP, "    s.x = CONFIG.SIZE\n", "CONFIG is an object of the class Config: "),
    "super().reset": (LINE_OF_RESET, f"    super().reset(seed=0)\n{LINE_OF_RESET}", "super: a kernel is a function"),
    "a lambda": (MOVE_IN_STEP, "    f = lambda x: x\n", "lambda: "),
    "a method": (MOVE_IN_STEP, "    s.x = s.seen.sum()\n", "have no methods"),
    "isinstance": (MOVE_IN_STEP, f"    if isinstance(action, int):\n    {MOVE_IN_STEP}", "isinstance"),
    "a helper without @kernel": (
        MOVE_IN_STEP,
        "    s.x = clipped(s.x)\n",
        "clipped is no kernel: put @kernel above it",
    ),
    "a call of itself": (MOVE_IN_STEP, "    step(s, action, p)\n", "calls itself"),
    # What it receives and writes.
    "swapped parameters": (
        DEF_OF_STEP,
        DEF_OF_STEP.replace("s: State, action: int", "action: int, s: State"),
        r"\(s, action, p\)",
    ),
    "swapped parameters without types": (DEF_OF_STEP, "def step(action, s, p):\n", r"\(s, action, p\)"),
    "no field of that name": (MOVE_IN_STEP, "    s.y = 1\n", "no field 'y'"),
    "a misspelt field": (MOVE_IN_STEP, "    s.sped = 1.0\n", "did you mean 'speed'"),
    "a parameter written": (MOVE_IN_STEP, "    p.wind = 0.5\n", "Params are the user's"),
    "an action written": (MOVE_IN_STEP, "    action[0] = 1\n", "actions are the agent's"),
    "an action as an array": (MOVE_IN_STEP, "    s.x += action[0]\n", "action is one int"),
    "time counted again": (MOVE_IN_STEP, f"    s.t += 1\n{MOVE_IN_STEP}", "the engine counts steps"),
    "a fraction in an integer": (MOVE_IN_STEP, "    s.x += 0.5\n", "x is i4, so a fraction is lost"),
    "None for a number": (MOVE_IN_STEP, "    s.speed = None\n", "holds a number, not None"),
    "an array field at once": (LINE_OF_RESET, "    s.seen = 0\n", r"write its elements, s.seen\[0\]"),
    "a scalar as an array": (MOVE_IN_STEP, "    s.x[0] = 1\n", "is one number: declare the field with a shape"),
    "too many indices": (LINE_OF_OBSERVE, "    out[0, 1] = 1.0\n", "2 indices are too many"),
    "behind the end": (LINE_OF_OBSERVE, "    out[2] = 1.0\n", "index 2 is not in 0 to 1"),
    "far behind the end": (
        LINE_OF_OBSERVE,
        "    out[100_000_000 + s.x] = 1.0\n",
        "index 10000000[012] is not in 0 to 1",
    ),
    "a fraction as an index": (LINE_OF_OBSERVE, "    out[s.x / 2] = 1.0\n", r"index s.x / 2 is a fraction: write int"),
    "an undefined name": (MOVE_IN_STEP, "    s.x = LENGHT\n", "name 'LENGHT' is not defined"),
    "a function that math lacks": (MOVE_IN_STEP, "    s.speed = math.clip(0.5, 0.0, 1.0)\n", "math has no 'clip'"),
    "rng without the state": (LINE_OF_RESET, "    s.x = integers(3)\n", r"integers\(s, n\)"),
    "rng with the state last": (LINE_OF_RESET, "    s.x = integers(3, s)\n", "the State comes first"),
    # What the file declares.
    "a field without a type": ("    speed: f4\n", "    speed = 0.0\n", r"speed: f4 = "),
    "a field of Python's type": ("    speed: f4\n", "    speed: float\n", "use f4"),
    "a parameter without a default": ("    length: i4 = bounded(9, low=1, high=9)\n", "    length: i4\n", "default"),
    "a kernel without @kernel": (f"@kernel\n{DEF_OF_STEP}", DEF_OF_STEP, "decorated with @kernel"),
    "an async kernel": (DEF_OF_STEP, f"async {DEF_OF_STEP}", "write `def`, not `async def`"),
    "a static method": (
        f"@kernel\n{DEF_OF_STEP}",
        f"@staticmethod\n{DEF_OF_STEP}",
        "step must be a function decorated with @kernel",
    ),
    "a kernel of numba": (
        f"@kernel\n{DEF_OF_STEP}",
        f"@__import__('numba').njit\n{DEF_OF_STEP}",
        "decorated with @kernel",
    ),
    "self among the parameters": (DEF_OF_STEP, DEF_OF_STEP.replace("(s:", "(self, s:"), r"step\(s, action, p\)"),
    "a keyword that World lacks": ("    horizon=30,\n", "    max_steps=30,\n", "no keyword 'max_steps'.*'horizon'"),
    "MultiDiscrete": ("action=Discrete(3)", "action=__import__('gymnasium').spaces.MultiDiscrete([3])", "a Discrete"),
    "rng from the wrong module": (
        "from rl_lab.core.world import Array",
        "from rl_lab.core.world import normal, Array",
        "rl_lab.core.rng",
    ),
}


NUMBERS = itertools.count()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file in envs/ of a name of its own, with Walk in it."""
    path = tmp_path / f"walk{next(NUMBERS)}.py"  # worlds are kept by name
    path.write_text(WALK)
    package = importlib.import_module("rl_lab.envs")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    yield path
    sys.modules.pop(f"rl_lab.envs.{path.stem}", None)


def test_there_are_forty_and_the_file_without_them_is_right(file: Path) -> None:
    assert len(MISTAKES) >= 40
    assert violations(world_registry.load(file.stem)) == []


def test_an_endless_loop_is_left_by_its_returns_alone(file: Path) -> None:
    loop = "    while True:\n        for k in range(9):\n            if k == s.x:\n                break\n"
    file.write_text(WALK.replace(RETURN_OF_STEP, f"{loop}        return 1.0, True\n"))
    assert violations(world_registry.load(file.stem)) == []


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(
    name: str, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong, said = MISTAKES[name]
    text = WALK.replace(right, wrong, 1)
    pairs = enumerate(zip(text.splitlines(), WALK.splitlines(), strict=False), 1)
    line = next(number for number, (mine, theirs) in pairs if mine != theirs)
    file.write_text(text)
    from numba.core.compiler import Compiler

    monkeypatch.setattr(Compiler, "compile_extra", lambda *_: pytest.fail("it was compiled"))
    with pytest.raises(WorldError, match=said) as caught:
        batch = Batch(world_registry.load(file.stem), 2, threads=1)
        batch.reset()
        batch.step()
    # Of a declaration, the line of its class, of World(...) or of the function; of the rest, the very line, or that of
    # a return among those that were put there.
    added = len(wrong.splitlines())
    message = str(caught.value)
    assert message.startswith(str(file)) and "\n" not in message
    number = int(message.removeprefix(f"{file}:").partition(" ")[0].rstrip(":"))
    if list(MISTAKES).index(name) < list(MISTAKES).index("a field without a type"):
        assert line <= number < line + added, message
    assert "numba" not in message and len(message) < 100 + 260 + len(str(file))


@pytest.mark.parametrize("name", ["print", "the two swapped", "a parameter written", "assert", "a dictionary inside"])
def test_check_says_it_once(name: str, file: Path) -> None:
    right, wrong, said = MISTAKES[name]
    file.write_text(WALK.replace(right, wrong, 1))
    world = world_registry.load(file.stem)
    assert isinstance(world, World)
    failed = [result for result in check_world(world, QUICK) if result.status == "fail"]
    assert len(failed) == 1 and len(failed[0].findings) == 1


def test_commands_say_it_in_one_line_too(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(WALK.replace(MOVE_IN_STEP, f"    print(s.x)\n{MOVE_IN_STEP}"))
    assert main(["evaluate", "random", f"world={file.stem}"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"rl-lab: {file}:") and err.count("\n") == 1 and out == ""


def test_a_file_may_hold_several_and_check_lists_them(file: Path) -> None:
    file.write_text(
        WALK.replace(MOVE_IN_STEP, f"    print(s.x)\n    assert action\n{MOVE_IN_STEP}").replace(
            RETURN_OF_STEP, "    return 1.0\n"
        )
    )
    assert [v.message.partition(":")[0] for v in violations(world_registry.load(file.stem))] == [
        "print",
        "assert",
        "step returns (reward, terminated)",
    ]
