"""Diffusion and sequence policies: trained and used as agents with the commands that a user types."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from support.datasets import cartpole_metadata, random_columns, write_data_set

from rl_lab.adapters import make
from rl_lab.cli import main
from rl_lab.core import agent_registry, checkpoint
from rl_lab.datasets import cache
from rl_lab.datasets.dataset import open_dataset
from rl_lab.evaluation.collection import CollectionPlan, Policy, collect
from rl_lab.evaluation.evaluate import evaluate
from rl_lab.experiments.agent_targets import find_agent
from rl_lab.experiments.frozen_agent import FrozenAgentRef
from rl_lab.multiagent.opponents_wrapper import OpponentsWrapper

SMALL = ["epochs=2", "batch_size=64", "evaluation.episodes=3", "validation=0.3"]
WORDS = {
    "diffusion": ["width=16", "layers=1", "horizon=4", "act_steps=3", "denoising_steps=2"],
    "sequence": ["width=8", "layers=1", "heads=1", "context=5"],
}
WORLDS = {"diffusion": "whale", "sequence": "cartpole"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data of 8 episodes, and a run, of each policy."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(cache, "root", lambda: folder / "cache")
        for method, world in WORLDS.items():
            words = ["data", "collect", "random", f"world={world}", "episodes=6", f"out={method}-data"]
            assert main([*words, "--json"]) == 0
            words = ["pretrain", method, f"data={method}-data", f"run_dir={method}-run", *WORDS[method], *SMALL]
            assert main([*words, "--json"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "root", lambda: tmp_path / "cache")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Return the exit status and the output of a command."""
    capsys.readouterr()
    status = main(list(words))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def result(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Return the JSON of a command that must succeed."""
    status, out, err = run(capsys, *words, "--json")
    assert status == 0, err
    node: dict[str, Any] = json.loads(out.splitlines()[-1])
    return node


def reproducible_bytes(path: Path) -> dict[str, bytes]:
    """Return the metrics and the agent of a run, and all tensors of its last checkpoint."""
    files = [path / "metrics.jsonl", *(path / "agent").rglob("*.safetensors")]
    last, errors = checkpoint.latest(path / "checkpoints")
    assert last is not None and not errors
    parts = {f"{member}.{name}": array for member, part in last.tensors.items() for name, array in part.items()}
    return {str(file.name): file.read_bytes() for file in files} | {k: array.tobytes() for k, array in parts.items()}


@pytest.mark.parametrize("method", WORLDS)
def test_a_resumed_pretraining_has_the_same_bits(
    capsys: pytest.CaptureFixture[str], trained: Path, method: str
) -> None:
    made = Path(f"{method}-run")
    for name in (str(made), f"{method}-data"):
        shutil.copytree(trained / name, name)
    before = reproducible_bytes(made)
    shutil.rmtree(sorted((made / "checkpoints").iterdir())[-1])
    shutil.rmtree(made / "agent")
    resumed = result(capsys, "resume", str(made))
    assert reproducible_bytes(made) == before
    assert resumed["mean_return"] == result(capsys, "evaluate", str(made), "evaluation.episodes=3")["mean_return"]
    assert resumed["sha256"] == FrozenAgentRef(str(made)).with_content_hash().sha256


@pytest.mark.parametrize("method", WORLDS)
def test_an_episode_is_the_same_in_every_batch(trained: Path, method: str) -> None:
    agent, scenario, *_ = find_agent(str(trained / f"{method}-run"), [])
    together, alone = (
        evaluate(agent, scenario.world, scenario.params, episodes=4, num_envs=num_envs) for num_envs in (4, 1)
    )
    # With 3 environments, an episode begins in the middle of others.
    mixed = evaluate(agent, scenario.world, scenario.params, episodes=4, num_envs=3)
    for other in (alone, mixed):
        assert other.episodes == together.episodes
        for one, two in zip(together.episodes, other.episodes, strict=True):
            assert np.array_equal(one.actions, two.actions)
    assert len({episode.actions.tobytes() for episode in together.episodes}) > 1


@pytest.mark.parametrize("method", WORLDS)
def test_sampled_actions_are_recorded_with_their_own_seeds(
    capsys: pytest.CaptureFixture[str], trained: Path, method: str
) -> None:
    modes = {"one": "true", "two": "true", "greedy": "false"}
    hashes = [
        result(capsys, "data", "collect", f"{trained}/{method}-run:sample={mode}", "episodes=1", f"out={out}")[
            "content_hash"
        ]
        for out, mode in modes.items()
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_diffusion_policy_carries_out_its_sequences(trained: Path) -> None:
    """With act_steps=3, observations matter at every third step alone."""
    agent, scenario, *_ = find_agent(str(trained / "diffusion-run"), [])

    class Envs:
        rewards = np.zeros((2, 1), np.float32)

    agent.bind(Envs())  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(7, 1, 17)).astype(np.float32).repeat(2, axis=1)
    observations[[1, 4, 5], 1] += 1  # step 4 and 5 are seen by the sequence that begins at step 6
    state, actions = None, []
    for step in range(7):
        chosen, state = agent.act(observations[step], state=state)
        actions.append(chosen)
    is_equal = [np.array_equal(one, two) for one, two in actions]
    assert is_equal == [True] * 6 + [False]
    assert not np.array_equal(agent.begin(state, np.array([True, False]))[1], agent.initial_state()[1])
    assert np.array_equal(agent.begin(state, np.array([True, False]))[0], agent.initial_state()[0])


@pytest.fixture(scope="module")
def two_returns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on episodes whose every action is 1 with reward 1, or 0 with reward 0."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(cache, "root", lambda: folder / "cache")
        metadata = cartpole_metadata()
        columns = random_columns(metadata, [20] * 40)
        actions = np.repeat(np.arange(40) % 2, 20)
        columns = replace(columns, actions=actions, rewards=actions.astype(np.float32))
        write_data_set(folder / "demo", metadata, columns)
        words = ["data=demo", "run_dir=made", "epochs=4", "learning_rate=1e-2", "evaluation.episodes=1", "dropout=0"]
        assert main(["pretrain", "sequence", *WORDS["sequence"], *words, "--json"]) == 0
    return folder / "made"


@pytest.mark.parametrize("target, action", [(20.0, 1), (0.0, 0)])
def test_a_sequence_policy_aims_at_the_target_return(two_returns: Path, target: float, action: int) -> None:
    agent, scenario, *_ = find_agent(str(two_returns), [f"agent.target_return={target}"])
    evaluation = evaluate(agent, "cartpole", {}, episodes=2)
    assert all((episode.actions == action).all() for episode in evaluation.episodes)
    assert find_agent(str(two_returns), [])[1].config.target_return == 20  # by default, the best of the data


def test_a_sequence_policy_takes_legal_actions_alone(two_returns: Path) -> None:
    agent, *_ = find_agent(str(two_returns), [])

    class Envs:
        rewards = running_returns = np.zeros((2, 1))

    agent.bind(Envs())  # type: ignore[arg-type]
    observations, masks = np.zeros((2, 4), np.float32), np.array([[1, 0], [0, 1]], np.uint8)
    for deterministic in (True, False):
        actions, _ = agent.act(observations, action_mask=masks, deterministic=deterministic)
        assert actions.tolist() == [0, 1]


def test_a_sequence_policy_remembers_the_actions_that_are_carried_out(two_returns: Path) -> None:
    """With noise=1, all recorded actions are random. The recorded ones must be those in the agent's memory."""
    agent: Any = find_agent(str(two_returns), [])[0]
    contexts: list[np.ndarray] = []
    choose = agent.choose

    def recording_choose(memory: dict[str, np.ndarray], *arguments: Any) -> np.ndarray:
        actions: np.ndarray = choose(memory, *arguments)
        contexts.append(memory["actions"][0].copy())
        return actions

    agent.choose = recording_choose
    plan = CollectionPlan("cartpole", {}, seed=0, episodes=1, noise=1.0)
    (columns,) = collect(plan, [Policy(agent, deterministic=True)])
    assert 0 < columns.actions.mean() < 1
    for step in range(1, len(columns.actions)):
        known = min(step, agent.context - 1)  # actions before this step's
        assert contexts[step][:known].tolist() == columns.actions[step - known : step].tolist()


def test_a_sequence_policy_acts_in_a_world_with_another_time_limit(two_returns: Path) -> None:
    agent, *_ = find_agent(str(two_returns), [])
    network: Any = agent.policy
    saved, _ = checkpoint.latest(two_returns / "agent")
    assert saved is not None
    factory: Any = agent_registry.load("sequence")
    envs = make.make("cartpole", 2, {})
    for horizon in (network.num_steps // 2, 0, 5000):
        world = replace(envs.world, horizon=horizon)
        loaded = factory.load(find_agent(str(two_returns), [])[1].config, world, saved, device="cpu")
        agent.bind(envs)
        loaded.bind(envs)
        assert np.array_equal(loaded.act(envs.observations[:, 0])[0], agent.act(envs.observations[:, 0])[0])


def test_the_scale_of_returns_is_that_of_the_training_episodes(capsys: pytest.CaptureFixture[str]) -> None:
    metadata = cartpole_metadata()
    columns = random_columns(metadata, [10] * 10)
    rewards = np.repeat(np.arange(10.0, dtype=np.float32), 10)
    write_data_set(Path("demo"), metadata, replace(columns, rewards=rewards))
    data = open_dataset(Path("demo"))
    seed = next(seed for seed in range(99) if 9 in data.split(0.3, seed)[1])  # the best episode validates
    train = data.split(0.3, seed)[0]
    words = ["data=demo", "run_dir=made", f"seed={seed}", *WORDS["sequence"], *SMALL, "epochs=1"]
    result(capsys, "pretrain", "sequence", *words)
    assert find_agent("made", [])[0].policy.return_scale == data.returns()[train].max()


def test_what_is_predicted_first_depends_on_nothing_that_comes_later(two_returns: Path) -> None:
    from rl_lab.learners.generative.sequence_network import Context, SequencePolicy

    agent: Any = find_agent(str(two_returns), [])[0]
    policy: SequencePolicy = agent.policy
    assert isinstance(agent.space, Discrete)
    torch.manual_seed(0)
    returns, observations = torch.randn(1, 5), torch.randn(1, 5, 4)
    actions, steps = torch.ones(1, 5, dtype=torch.int64), torch.arange(5)[None]
    with torch.no_grad():
        one = policy(Context(returns, observations, actions, steps))
        changed = [values.clone() for values in (returns, observations, actions)]
        changed[0][:, 3:], changed[1][:, 3:], changed[2][:, 2:] = 9, 9, 0
        two = policy(Context(changed[0], changed[1], changed[2], steps))
    assert torch.equal(one[:, :3], two[:, :3]) and not torch.equal(one[:, 3], two[:, 3])


def test_the_hash_of_an_agent_covers_how_it_acts(trained: Path) -> None:
    for method, change in {
        "diffusion": ("act_steps: 3", "act_steps: 2"),
        "sequence": ("context: 5", "context: 4"),
    }.items():
        shutil.copytree(trained / f"{method}-run", f"{method}-run")
        before = FrozenAgentRef(f"{method}-run").with_content_hash().sha256
        config = Path(f"{method}-run", "config.yaml")
        assert change[0] in config.read_text()
        config.write_text(config.read_text().replace(*change))
        assert FrozenAgentRef(f"{method}-run").with_content_hash().sha256 != before


WRONG: dict[str, tuple[list[str], str]] = {
    "no data": (["pretrain", "diffusion"], "say which data set to learn from: data=DIR"),
    "discrete": (["pretrain", "diffusion", "data=sequence-data"], "diffusion needs continuous actions"),
    "act steps": (["pretrain", "diffusion", "data=diffusion-data", "act_steps=9", "horizon=8"], "more than horizon=8"),
    "levels": (["pretrain", "diffusion", "data=diffusion-data", "noise_levels=5"], "does not divide noise_levels=5"),
    "heads": (["pretrain", "sequence", "data=sequence-data", "heads=3"], "heads=3 does not divide width=64"),
    "range": (["pretrain", "sequence", "data=sequence-data", "context=0"], "context=0: expected 1 to 512"),
    "type": (["pretrain", "sequence", "data=sequence-data", "context=long"], "context"),
    "key": (["pretrain", "sequence", "data=sequence-data", "contxt=3"], "did you mean 'context'?"),
    "backbone": (["pretrain", "diffusion", "data=diffusion-data", "backbone=mlp"], "has no key 'backbone'"),
    "world": (["pretrain", "sequence", "data=sequence-data", "world=acrobot"], "is data of another world"),
    "train": (["train", "pendulum", "agent=diffusion"], "rl-lab pretrain diffusion data=DIR"),
    "untrained": (["evaluate", "sequence", "world=cartpole"], "sequence must be trained first"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line(capsys: pytest.CaptureFixture[str], trained: Path, name: str) -> None:
    for method in WORLDS:
        shutil.copytree(trained / f"{method}-data", f"{method}-data")
    words, expected = WRONG[name]
    status, _, err = run(capsys, *words)
    assert status == 2 and expected in err and err.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("method", ["dagger", "tree"])
def test_a_policy_that_remembers_its_actions_is_no_teacher(
    capsys: pytest.CaptureFixture[str], trained: Path, method: str
) -> None:
    status, _, err = run(capsys, "pretrain", method, f"teacher={trained}/sequence-run")
    assert status == 2 and "cannot be asked where another agent plays" in err and err.count("\n") == 1


@pytest.mark.parametrize("method, package", [("diffusion", "diffusers"), ("sequence", "transformers")])
def test_a_missing_package_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, trained: Path, method: str, package: str
) -> None:
    from rl_lab.learners.generative.diffusion_network import acting_scheduler

    acting_scheduler.cache_clear()
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    for words in (
        ["evaluate", str(trained / f"{method}-run")],
        ["pretrain", method, f"data={trained}/{method}-data"],
    ):
        status, _, err = run(capsys, *words)
        assert status == 2 and f'needs {package}, which is not installed: pip install "rl-lab[generative]"' in err
        assert err.count("\n") == 1


def test_a_damaged_agent_is_one_line(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    method = "sequence"
    shutil.copytree(trained / f"{method}-run", "made")
    (folder,) = Path("made/agent").iterdir()
    saved = checkpoint.load(folder)
    name = next(iter(saved.tensors["policy"]))
    for change in ({name: np.zeros(3, np.float32)}, {"another": np.zeros(3, np.float32)}):
        checkpoint.save(Path("made/agent"), saved.step, {"policy": saved.tensors["policy"] | change}, saved.state)
        status, _, err = run(capsys, "evaluate", "made", "evaluation.episodes=1")
        assert status == 2 and "does not fit this scenario" in err and err.count("\n") == 1
    other = saved.state["observation"] | {"shape": [9]}
    checkpoint.save(Path("made/agent"), saved.step, saved.tensors, saved.state | {"observation": other})
    status, _, err = run(capsys, "evaluate", "made", "evaluation.episodes=1")
    assert status == 2 and f"{method} observes float32 [9]" in err


def test_policies_that_remember_play_games(capsys: pytest.CaptureFixture[str]) -> None:
    result(capsys, "data", "collect", "random", "world=tic_tac_toe", "episodes=10", "out=demo")
    words = ["data=demo", "run_dir=made", *WORDS["sequence"], *SMALL, "epochs=1"]
    assert result(capsys, "pretrain", "sequence", *words)["opponent"] == "random"  # the masks forbid all that is taken
    matches = ["tournament", "tic_tac_toe", "made", "random", "--pairs", "2", "--dir", "matches", "--workers", "1"]
    status, _, err = run(capsys, *matches)
    assert status == 0 and "fault" not in err, err

    envs = make.make("tic_tac_toe", 3, {}, seed=0)
    wrapped = OpponentsWrapper(envs, FrozenAgentRef("made").opponents(envs.world), seed=1)

    def play(steps: int) -> list[bytes]:
        boards = []
        for _ in range(steps):
            wrapped.actions[...] = wrapped.action_mask.argmax(-1)
            torch.manual_seed(0)  # of which the opponent's actions are sampled
            wrapped.step()  # raises where the opponent takes an illegal action
            boards.append(wrapped.observations.tobytes())
        return boards

    wrapped.reset()
    play(2)
    saved = wrapped.snapshot()
    continued = play(4)
    wrapped.restore(saved)  # the opponent remembers what it did when it was saved
    assert play(4) == continued
