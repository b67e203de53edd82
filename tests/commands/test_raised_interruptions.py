"""Tests of KeyboardInterrupt, SystemExit and the like that a user's code raises itself.

They are reported as errors of that code, with file and line. Only a signal interrupts a command.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from rl_lab.cli import main
from rl_lab.core.interrupts import Interrupted, Interrupts, is_interruption

ENVIRONMENT = """
import signal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Point(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space, action_space = Box(-1, 1, (2,), np.float32), Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.fail("constructor")

    def fail(self, call):
        if call == CALL:
            if SENDS_SIGTERM:
                signal.raise_signal(signal.SIGTERM)
            raise ERROR("oh")

    def reset(self, seed=None, options=None):
        self.fail("reset")
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.fail("step")
        return np.zeros(2, np.float32), 1.0, True, False, {}

    def render(self):
        self.fail("render")
        return np.zeros((32, 32, 3), np.uint8)

"""
ERRORS = ["KeyboardInterrupt", "SystemExit", "GeneratorExit", "BaseException"]


@pytest.fixture
def work_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_environment(call: str, error: str, *, sends_sigterm: bool = False) -> None:
    Path("own.py").write_text(f"{ENVIRONMENT}\n\nCALL, ERROR, SENDS_SIGTERM = {call!r}, {error}, {sends_sigterm}\n")


def evaluate(capsys: pytest.CaptureFixture[str], world: str, *words: str) -> tuple[int, list[str]]:
    status = main(["evaluate", "random", f"world={world}", "evaluation.episodes=2", "--json", *words])
    return status, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", ["constructor", "reset", "step", "render"])
def test_an_exception_in_an_environment_is_one_line_with_the_call_and_the_line(
    call: str, error: str, work_in_tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_environment(call, error)
    words = ["--video", "--require-video"] * (call == "render")
    status, lines = evaluate(capsys, "own.py:Point", *words)
    assert status == 1
    (line,) = lines
    assert f"{call} raised {error}: oh ({work_in_tmp_path}/own.py:" in line


@pytest.mark.parametrize("error", ERRORS)
def test_an_exception_in_a_factory_or_an_import_is_one_line_with_the_line(
    error: str, work_in_tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(f"factory_{error}.py").write_text(f"def make():\n    raise {error}('oh')\n")
    status, lines = evaluate(capsys, f"factory_{error}.py:make")
    location, message = (
        f"{work_in_tmp_path}/factory_{error}.py:2 make",
        f"factory_{error}.py:make cannot be made: {error}: oh",
    )
    assert status == 1 and lines == [f"rl-lab: {location}: {message}"]
    Path(f"other_{error}.py").write_text(f"raise {error}('oh')\n")
    status, lines = evaluate(capsys, f"other_{error}.py:make")
    assert status == 1 and lines == [f"rl-lab: {work_in_tmp_path}/other_{error}.py:1 <module>: {error}: oh"]


@pytest.mark.parametrize("call", ["constructor", "reset", "step"])
def test_a_signal_while_the_environment_is_called_ends_the_command(
    call: str, work_in_tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_environment(call, "KeyboardInterrupt", sends_sigterm=True)
    assert evaluate(capsys, "own.py:Point")[0] == 128 + signal.SIGTERM


def test_without_the_labs_signal_handlers_every_keyboard_interrupt_is_an_interruption() -> None:
    assert is_interruption(KeyboardInterrupt()) and is_interruption(Interrupted(130))
    assert not is_interruption(SystemExit()) and not is_interruption(GeneratorExit())
    with pytest.raises(Interrupted), Interrupts() as guard:
        assert not is_interruption(KeyboardInterrupt())
        signal.raise_signal(signal.SIGINT)
        assert is_interruption(KeyboardInterrupt())
        guard.check()
