"""Tests that evaluate and train report a mistake in a world's file in one line, with file, line and remedy."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import time
from pathlib import Path

import pytest

from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.cli import main
from rl_lab.core.interrupts import Interrupted, Interrupts
from rl_lab.core.world import WorldError
from rl_lab.engine import compiler, world_registry
from rl_lab.engine.batch import Batch
from rl_lab.engine.diagnostics import explain_compiler_error
from rl_lab.learners.sb3.ppo import CompiledPPO

GAME = '''"""Nim: take any number from one of three heaps; taking the last one wins."""

import numpy as np

from rl_lab.core.world import Array, Box, Discrete, Record, World, WorldState, bounded, i4, kernel


class State(WorldState):
    mover: i4 = bounded(0, low=0, high=1)
    heap: i4[3] = bounded(0, low=0, high=7)


class Params(Record):
    pass


@kernel
def reset(s: State, p: Params) -> None:
    s.heap[0], s.heap[1], s.heap[2] = 3, 5, 7


@kernel
def step(s: State, action: int, p: Params, rewards: Array) -> bool:
    s.heap[action // 7] -= action % 7 + 1
    over = s.heap[0] + s.heap[1] + s.heap[2] == 0
    if over:
        rewards[s.mover], rewards[1 - s.mover] = 1, -1
    s.mover = 1 - s.mover
    return over


@kernel
def observe(s: State, agent: int, p: Params, out: Array) -> None:
    for h in range(3):
        for k in range(s.heap[h]):
            out[h, k] = 1


@kernel
def action_mask(s: State, agent: int, p: Params, mask: Array) -> None:
    for h in range(3):
        for k in range(s.heap[h]):
            mask[7 * h + k] = 1


world = World(
    State,
    Params,
    reset,
    step,
    observe,
    action_mask=action_mask,
    observation=Box(0, 1, (3, 7), np.uint8),
    action=Discrete(21),
    horizon=20,
    agents=("first", "second"),
    current_player_field="mover",
    zero_sum=True,
)
'''
# What is replaced in the game, by what; the line that must be named; the words that must be said.
MISTAKES = {
    "a field of Python's type with a shape": ("heap: i4[3]", "heap: int[3]", "heap: int[3]", "i4[3]|u1\\[10, 10\\]"),
    "a field of Python's type": (
        "heap: i4[3] = bounded(0, low=0, high=7)",
        "heap: bool",
        "class State",
        "use f4 .* u1",
    ),
    "a kernel that is missing": ("    observe,\n", "", "world = World(", "needs 'observe'.*@kernel"),
    "a kernel that is not marked": ("@kernel\ndef observe", "def observe", "def observe", "@kernel"),
    "a field that is not there": ("s.heap[action", "s.heaps[action", "s.heaps[action", "did you mean 'heap'"),
    "what cannot be compiled": ("over = s.heap[0]", "over = len({}) + s.heap[0]", "over = len({})", "CONTRIBUTING.md"),
    "no Python": ("def step(", "def step((", "def step((", "parenthes"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_file_line_and_fix(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong, named, said = MISTAKES[name]
    number = list(MISTAKES).index(name)
    file = tmp_path / f"mistaken{number}.py"
    text = GAME.replace(right, wrong)
    assert text != GAME
    file.write_text(text)
    package = importlib.import_module("rl_lab.envs")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    line = next(k for k, content in enumerate(text.splitlines(), 1) if named in content)
    try:
        with pytest.raises(WorldError, match=said) as caught:
            batch = Batch(world_registry.load(file.stem), 4, threads=1)
            batch.reset()
            batch.random_actions()
            batch.step()
        # A decorated function begins with its decorator.
        assert any(f"{file}:{k}" in str(caught.value) for k in (line, line - 1)), caught.value
        assert len(str(caught.value).splitlines()) == 1
        assert main(["evaluate", "random", f"world={file.stem}"]) == 1
        assert capsys.readouterr().err.strip().splitlines()[-1].startswith("rl-lab: ")
    finally:
        sys.modules.pop(f"rl_lab.envs.{file.stem}", None)


@pytest.mark.parametrize("how", ["serial", "threaded", "learner"])
def test_an_exception_in_a_compiled_kernel_is_raised_as_a_world_error(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numba compiles this kernel, but its two slices differ in length once the ball has fallen, so a step raises."""
    source = Path(str(importlib.import_module("rl_lab.envs.catch").__file__)).read_text()
    line = "    out[ROWS - 1, s.paddle_x] = 1.0\n"
    assert line in source
    (tmp_path / "sliced.py").write_text(
        source.replace(line, f"{line}    if s.ball_y == 3:\n        out[0, : s.ball_y] = out[1, :]\n")
    )
    monkeypatch.syspath_prepend(tmp_path)
    batch = Batch(importlib.import_module("sliced").world, 3, threads=2 if how == "threaded" else 1)
    batch.reset()
    batch.actions[...] = 1
    with pytest.raises(WorldError, match=r"sliced.py:\d+ observe: .*"):
        if how == "learner":
            CompiledPPO("MlpPolicy", LabVecEnv(batch), n_steps=64, batch_size=64, device="cpu").learn(64)
        else:
            for _ in range(5):
                batch.step()


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("legal", "action_mask"),
        ("turns", "current_player_field"),
        ("present", "alive_field"),
        ("swap", "rotate_seats"),
        ("forfeit", "illegal_action_reward"),
        ("max_episode_steps", "horizon"),
        ("render", "draw"),
        ("num_agents", "agents"),
        ("observation_space", "observation"),
        ("horizn", "horizon"),
    ],
)
def test_a_keyword_of_an_earlier_version_or_of_gymnasium_is_answered_with_ours(
    theirs: str, ours: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"with_{theirs}.py"
    file.write_text(f"from rl_lab.core.world import World\n\nworld = World({theirs}=None)\n")
    assert main(["train", str(file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{file}:3" in line and f"did you mean {ours!r}?" in line


def test_a_file_with_a_null_byte_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cut.py"
    file.write_bytes(b"x = 1\n\0\n")
    assert main(["train", str(file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{file}: source code" in line and "None" not in line


def test_the_words_of_numba_are_found_behind_its_colours() -> None:
    bold, plain = "\x1b[1m", "\x1b[0m"
    text = (
        f"{bold}{bold}Failed in nopython mode pipeline (step: nopython frontend)\n"
        f"{bold}No implementation of function sum found{plain}\n"
        f'{bold}File "/a/maze.py", line 7:{plain}\n'
    )
    said = explain_compiler_error(text, {"/a/maze.py"})
    assert said.startswith("/a/maze.py:7 does not compile: No implementation of function sum found")
    assert "\x1b" not in said and "nopython" not in said


def test_what_numba_makes_of_an_interrupted_compilation_is_no_mistake_of_the_world(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def swallows(*_: object) -> None:
        """Lose the KeyboardInterrupt, as numba does in a callback of LLVM's, and fail because of it."""
        signal.raise_signal(signal.SIGTERM)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(30)
        raise RuntimeError("no compiled object yet")

    monkeypatch.setattr(compiler, "step_addresses", swallows)
    batch = Batch(world_registry.load("catch"), 2, threads=1)
    batch.reset()
    # A time limit of 0 makes the signal raise KeyboardInterrupt at once, in the middle of the "compilation".
    with pytest.raises(Interrupted) as stopped, Interrupts() as interrupts, interrupts.abort_after(0.0):
        batch.step()
    assert stopped.value.code == 128 + signal.SIGTERM
