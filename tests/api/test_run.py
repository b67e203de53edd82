"""`rl_lab.train`, `load` and `evaluate` do what the commands do, and their objects have what the run's folder has."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import programs

import rl_lab
from rl_lab.cli import main
from rl_lab.core.errors import UsageError

SETTINGS: dict[str, Any] = {
    "seed": 3,
    "worlds": 4,
    "budget": 600,
    "evaluation": {"episodes": 6},
    "agent": {"n_steps": 16, "batch_size": 32},
    "video": False,
}
WORDS = "seed=3 worlds=4 budget=600 evaluation.episodes=6 agent.n_steps=16 agent.batch_size=32 video=false"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("runs") / "mine"
    return rl_lab.train("catch", progress=False, run_dir=folder, **SETTINGS)


def test_it_trains_the_run_of_the_command(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same metrics, bit for bit, and the same figures."""
    words = f"train catch {WORDS} run_dir={tmp_path / 'run'} --json"
    assert main(words.split()) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (run.path / "metrics.jsonl").read_bytes() == (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert {key: printed[key] for key in run.summary} == run.summary
    assert run.metrics()[-1]["step"] == run.scenario.budget // 64 * 64 + 64 * (run.scenario.budget % 64 > 0)


def test_a_loaded_run_acts_as_in_the_evaluation(run: Any) -> None:
    loaded = rl_lab.load(run.path)
    result = loaded.evaluate(episodes=4)
    assert result.returns.shape == (4,) and result.mean_return == pytest.approx(result.returns.mean())
    assert [row["return"] for row in result.rows()] == result.returns.tolist()
    assert str(result).startswith("catch")
    env = __import__("gymnasium").make("rl_lab/catch-v0")
    for episode in result.episodes:
        observation, _ = env.reset(seed=episode.seed)
        for action in episode.actions:
            assert loaded.agent.act(observation) == action
            observation, _, terminated, truncated, _ = env.step(int(action))
        assert terminated or truncated


def test_a_batch_of_observations_gives_the_actions_of_each(run: Any) -> None:
    observations = np.stack([run.agent.observation_space.sample() for _ in range(5)])
    assert run.agent.act(observations).tolist() == [run.agent.act(each) for each in observations]
    with pytest.raises(ValueError, match="an observation has shape"):
        run.agent.act(observations[:, :1])


def test_videos_show_themselves(run: Any) -> None:
    video = run.film("worst")
    assert video.path == run.path / "videos" / "worst.mp4" and video._repr_html_().startswith("<video controls")
    with pytest.raises(UsageError, match="did you mean 'best'"):
        run.film("bst")


def test_agents_that_need_no_training_are_evaluated_by_name() -> None:
    result = rl_lab.evaluate("scripted", world="catch", episodes=10)
    assert result.mean_return == 1.0 and result.summary["agent"] == "scripted"


def test_what_stops_a_training_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    """SIGINT raises KeyboardInterrupt, which says how to continue; the resumed run ends at its budget."""
    agent = {"n_steps": 16, "batch_size": 512, "n_epochs": 1}
    settings = {**SETTINGS, "worlds": 64, "agent": agent, "budget": 400_000, "run_dir": tmp_path / "run"}
    metrics = tmp_path / "run" / "metrics.jsonl"

    def interrupt_after_first_iteration() -> None:
        while not (metrics.exists() and metrics.stat().st_size):
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_after_first_iteration)
    thread.start()
    with pytest.raises(KeyboardInterrupt, match=r"rl_lab.load\('.*run'\).resume"):
        rl_lab.train("catch", progress=False, **settings)
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    stopped = rl_lab.load(tmp_path / "run")
    assert stopped.summary is None and 0 < stopped.metrics()[-1]["step"] < 400_000
    assert stopped.resume(progress=False).metrics()[-1]["step"] >= 400_000 and stopped.summary is not None


ENVIRONMENT = """
import gymnasium
import numpy as np


class Line(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-5, 5, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        self.x += 1 if action and self.x < 5 else 0
        return np.full(1, self.x, np.float32), float(action), self.steps == 8, False, {}
"""


def test_a_class_of_a_file_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "line_env.py").write_text(ENVIRONMENT)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("line_env")
    try:
        run = rl_lab.train(module.Line, progress=False, run_dir=tmp_path / "run", **SETTINGS)
    finally:
        sys.modules.pop("line_env")
    assert run.scenario.world.endswith("line_env.py:Line") and run.agent.act([0.0]) in (0, 1)


def test_what_no_file_defines_is_refused() -> None:
    class Inner:
        pass

    for target in (Inner, Inner(), 5):
        with pytest.raises(UsageError, match="at the top of a file"):
            rl_lab.train(target)


def test_a_script_that_trains_its_own_class_while_it_is_imported_is_told_so(tmp_path: Path) -> None:
    """The file is imported again to make the environment, and would train again and again."""
    (tmp_path / "mine.py").write_text(f"import rl_lab\n{ENVIRONMENT}\nrl_lab.train(Line)\n")
    done = programs.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "__main__" in done.stderr.splitlines()[-1]


def test_the_number_of_episodes_is_given_once(run: Any) -> None:
    assert len(run.evaluate(evaluation={"episodes": 3}).episodes) == 3
    assert len(run.evaluate().episodes) == 6  # the scenario's
    with pytest.raises(UsageError, match="the same setting"):
        run.evaluate(episodes=3, evaluation={"episodes": 4})


def test_several_agents_are_evaluated_and_not_asked_for_one_action(tmp_path: Path) -> None:
    run = rl_lab.train("tic_tac_toe", progress=False, run_dir=tmp_path / "run", **SETTINGS)
    assert rl_lab.evaluate(run, episodes=4, opponent="random").summary["opponent"] == "random"
    with pytest.raises(UsageError, match="several agents"):
        run.agent.act(np.zeros(27))


def test_names_are_there_without_an_import_of_torch() -> None:
    """`import rl_lab` lists them; torch is imported when one is used."""
    program = "import rl_lab, sys; print({'train', 'load', 'evaluate'} <= set(dir(rl_lab)), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
    with pytest.raises(AttributeError, match="trane"):
        rl_lab.trane  # noqa: B018
