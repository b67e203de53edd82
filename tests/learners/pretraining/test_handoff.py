"""A backbone in the policies of PPO and DQN: loaded to the bit, frozen or not, with a learning rate of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from support.backbones import learner_of, settings_of, train, trainer_of, write_backbone
from support.datasets import cartpole_metadata, random_columns, write_data_set

from rl_lab.adapters import make
from rl_lab.core import agent_registry
from rl_lab.core.errors import UsageError
from rl_lab.learners.pretraining import folder, networks
from rl_lab.learners.pretraining.contract import contract_of
from rl_lab.learners.pretraining.methods import HEADS
from rl_lab.learners.pretraining.model import tensor_hash
from rl_lab.learners.sb3.backbone_extractor import BackboneExtractor
from rl_lab.learners.sb3.inference import CompiledPolicy


def _trunk(learner: Any) -> torch.nn.Module:
    policy = learner.model.policy
    module: torch.nn.Module = (policy if hasattr(policy, "action_net") else policy.q_net).features_extractor.backbone
    return module


def _hash(learner: Any) -> str:
    return tensor_hash(_trunk(learner).state_dict())


@pytest.mark.parametrize("net_arch", [(), (8,)])
def test_ppo_has_the_features_and_outputs_of_the_backbone(tmp_path: Path, net_arch: tuple[int, ...]) -> None:
    model = write_backbone(tmp_path / "b", net_arch=net_arch)
    policy = learner_of(settings_of(tmp_path / "b")).model.policy
    observations = torch.randn(32, 4) * 2
    with torch.no_grad():
        assert torch.allclose(policy.extract_features(observations), model(observations), atol=1e-5)
        logits = policy.get_distribution(observations).distribution.logits
        expected = model.policy(model(observations))
        assert torch.allclose(logits, expected - expected.logsumexp(1, keepdim=True), atol=1e-5)
        assert torch.allclose(policy.predict_values(observations), model.value(model(observations)), atol=1e-5)


@pytest.mark.parametrize("method", HEADS)
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_features_are_equal_in_torch_in_sb3_and_in_compiled_code(tmp_path: Path, method: str, kind: str) -> None:
    """A policy whose action is the vector of features shows how compiled code computes them."""
    world = "cartpole" if kind == "mlp" else "breakout"
    about = cartpole_metadata() if kind == "mlp" else cartpole_metadata(Box(0, 1, (10, 10, 4), np.uint8), Discrete(3))
    write_data_set(tmp_path / "d", about, random_columns(about, [20] * 8))
    network = networks.network_of(kind, {"hidden": [32]} if kind == "mlp" else {"features": 32})
    trainer = train(trainer_of(tmp_path / "d", method, network, epochs=1))
    model = trainer.finished_model()
    model.spec = dataclasses.replace(model.spec, observation=contract_of(make.make(world, 1).world.observation))
    folder.save(tmp_path / "b", model, {})
    learner = learner_of(settings_of(tmp_path / "b", parts=["trunk"]), world=world, compiled=True)
    assert learner.backend.startswith("compiled; ") and "parts trunk" in learner.backend
    observations = np.array(trainer.examples.data.observations)

    policy = ActorCriticPolicy(
        learner.model.observation_space,
        Box(-1e9, 1e9, (32,), np.float32),
        lambda _: 0.0,
        net_arch=[],
        features_extractor_class=BackboneExtractor,
        features_extractor_kwargs={"network": network},
        normalize_images=False,
    )
    policy.features_extractor.load_state_dict(learner.model.policy.features_extractor.state_dict())
    with torch.no_grad():
        policy.action_net.weight.copy_(torch.eye(32))
        policy.action_net.bias.zero_()
        expected = model(torch.from_numpy(observations)).numpy()
        in_sb3 = learner.model.policy.extract_features(torch.from_numpy(observations)).numpy()
    assert np.allclose(in_sb3, expected, atol=1e-5) and expected.std() > 1e-3
    assert np.allclose(CompiledPolicy(policy).act(observations, None), expected, atol=1e-5)


def test_parts_that_are_not_named_are_new(tmp_path: Path) -> None:
    model = write_backbone(tmp_path / "b")
    policy = learner_of(settings_of(tmp_path / "b", parts=["trunk", "value"])).model.policy
    assert torch.equal(policy.value_net.weight, model.value[0].weight)  # type: ignore[union-attr]
    assert not torch.equal(policy.action_net.weight, model.policy[0].weight)  # type: ignore[union-attr]


def test_a_gaussian_policy_has_its_deviation(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b", world="pendulum")
    policy = learner_of(settings_of(tmp_path / "b"), world="pendulum", log_std_init=-1.0).model.policy
    assert policy.log_std.tolist() == [0.0]  # the backbone's


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_a_frozen_trunk_stays_frozen_bit_for_bit(tmp_path: Path, agent: str) -> None:
    write_backbone(tmp_path / "b")
    learner = learner_of(settings_of(tmp_path / "b", mode="frozen"), agent=agent)
    before = _hash(learner)
    heads = tensor_hash(learner.model.policy.state_dict())
    for _ in range(3):
        learner.train_iteration()
    assert _hash(learner) == before and tensor_hash(learner.model.policy.state_dict()) != heads


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_a_trunk_is_fine_tuned(tmp_path: Path, agent: str) -> None:
    write_backbone(tmp_path / "b")
    learner = learner_of(settings_of(tmp_path / "b"), agent=agent)
    before = _hash(learner)
    learner.train_iteration()
    assert _hash(learner) != before


def test_dqn_begins_with_the_backbone_in_both_networks(tmp_path: Path) -> None:
    model = write_backbone(tmp_path / "b")
    policy = learner_of(settings_of(tmp_path / "b"), agent="dqn").model.policy
    for network in (policy.q_net, policy.q_net_target):
        assert tensor_hash(network.features_extractor.backbone.state_dict()) == tensor_hash(model.trunk.state_dict())


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_the_trunk_keeps_its_own_learning_rate(tmp_path: Path, agent: str) -> None:
    write_backbone(tmp_path / "b")
    learner = learner_of(settings_of(tmp_path / "b", learning_rate=1e-5), agent=agent, learning_rate=1e-3)
    learner.train_iteration()
    learner.train_iteration()
    others, trunk = learner.model.policy.optimizer.param_groups
    assert (others["lr"], trunk["lr"]) == (1e-3, pytest.approx(1e-5))
    assert {id(p) for p in trunk["params"]} == {id(p) for p in _trunk(learner).parameters()}


def test_the_trunks_learning_rate_has_the_agents_schedule(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b")
    settings = settings_of(tmp_path / "b", learning_rate=1e-4)
    learner = learner_of(settings, learning_rate=1e-3, learning_rate_schedule="linear")
    for _ in range(8):
        learner.train_iteration()
    others, trunk = learner.model.policy.optimizer.param_groups
    assert others["lr"] < 1e-3 and trunk["lr"] == pytest.approx(others["lr"] / 10)


def test_a_learning_rate_of_zero_leaves_the_trunk_alone(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b")
    learner = learner_of(settings_of(tmp_path / "b", learning_rate=0.0))
    before = _hash(learner)
    learner.train_iteration()
    assert _hash(learner) == before


def test_frozen_then_finetune_learns_from_the_given_step(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b")
    settings = settings_of(tmp_path / "b", mode="frozen_then_finetune", freeze_steps=128)
    learner = learner_of(settings)
    before = _hash(learner)
    learner.train_iteration()
    learner.train_iteration()
    assert learner.steps == 128 and _hash(learner) == before
    learner.train_iteration()
    assert _hash(learner) != before


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "frozen"},
        {"learning_rate": 1e-4},
        {"mode": "frozen_then_finetune", "freeze_steps": 128},
        {"critic_warmup": 128, "kl_coef": 1.0, "kl_steps": 512},
        {"mode": "encoded"},
    ],
    ids=str,
)
def test_a_restored_learner_continues_bit_for_bit(tmp_path: Path, agent: str, settings: dict[str, Any]) -> None:
    if agent == "dqn" and "kl_coef" in settings:
        pytest.skip("DQN has neither a critic nor a policy to compare")
    write_backbone(tmp_path / "b")
    first = learner_of(settings_of(tmp_path / "b", **settings), agent=agent)
    first.train_iteration()
    saved, worlds = first.save(), first.vec_env.envs.snapshot()
    for _ in range(3):
        first.train_iteration()
    second = learner_of(settings_of(tmp_path / "b", **settings), agent=agent)
    second.vec_env.envs.restore(worlds)
    second.restore(saved)
    for _ in range(3):
        second.train_iteration()
    tensors, again = first.save().tensors, second.save().tensors
    for member in ("policy", "optimizer", "last"):
        assert tensor_hash(tensors[member]) == tensor_hash(again[member])


def test_an_mlp_is_learned_by_compiled_code_as_by_the_librarys(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b")
    learner = learner_of(settings_of(tmp_path / "b"), compiled=True)
    assert learner.backend.startswith("compiled; backbone: mlp ") and learner.backend.endswith("trunk+policy+value")
    before = _hash(learner)
    agent = learner.agent()
    observations = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    with torch.no_grad():
        greedy = agent.policy.predict(observations, deterministic=True)[0]
    assert agent.act(observations)[0].tolist() == greedy.tolist()
    learner.train_iteration()
    assert _hash(learner) != before


@pytest.mark.parametrize("settings", [{"mode": "frozen"}, {"learning_rate": 1e-4}], ids=str)
def test_the_first_line_says_why_compiled_code_does_not_learn(tmp_path: Path, settings: dict[str, Any]) -> None:
    write_backbone(tmp_path / "b")
    assert learner_of(settings_of(tmp_path / "b", **settings), compiled=True).backend.startswith(
        "Stable-Baselines3's own, because "
    )


def test_a_world_with_other_observations_is_refused_with_both_contracts(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b")
    with pytest.raises(ValueError) as caught:
        learner_of(settings_of(tmp_path / "b"), world="acrobot")
    assert "observes float32 [4] from no bound to no bound; acrobot gives float32 [6] from" in str(caught.value)


@pytest.mark.parametrize(
    ("world", "other"), [("cartpole", "mountain_car_continuous"), ("pendulum", "cartpole")], ids=["vectors", "discrete"]
)
def test_other_actions_are_refused(tmp_path: Path, world: str, other: str) -> None:
    write_backbone(tmp_path / "b", world=world)
    settings = settings_of(tmp_path / "b")
    settings.spec["observation"] = settings_of_world(tmp_path, other)
    with pytest.raises(ValueError, match="has a policy for|observes"):
        learner_of(settings, world=other)


def settings_of_world(tmp_path: Path, world: str) -> dict[str, Any]:
    """Return the observation contract of a world as data."""
    write_backbone(tmp_path / "other", world=world)
    contract: dict[str, Any] = settings_of(tmp_path / "other").spec["observation"]
    return contract


def test_parts_that_are_not_there_are_refused(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b", heads=())
    with pytest.raises(ValueError, match="no policy: the folder has none; there is trunk"):
        learner_of(settings_of(tmp_path / "b", parts=["trunk", "policy"]))
    with pytest.raises(ValueError, match="a Q-network has no such head"):
        learner_of(settings_of(tmp_path / "b", parts=["trunk", "policy"]), agent="dqn")


def test_a_folder_that_has_changed_is_refused(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b")
    settings = settings_of(tmp_path / "b")
    write_backbone(tmp_path / "b", hidden=[8])
    with pytest.raises(UsageError, match="is not the backbone that it was"):
        learner_of(settings)


@pytest.mark.parametrize("key", ["normalize_observations", "agent_indicator"])
def test_settings_that_change_observations_are_refused(tmp_path: Path, key: str) -> None:
    write_backbone(tmp_path / "b")
    with pytest.raises(ValueError, match=f"agent.{key} changes the observations"):
        learner_of(settings_of(tmp_path / "b"), **{key: True})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"mode": "frozn"}, "did you mean 'frozen'?"),
        ({"parts": ["trunk", "polic"]}, "did you mean 'policy'?"),
        ({"parts": ["policy"]}, "add trunk"),
        ({"learning_rate": -1.0}, "expected 0 or more"),
        ({"mode": "frozen", "learning_rate": 1.0}, "leave it out with mode=frozen"),
        ({"mode": "frozen_then_finetune"}, "go together"),
        ({"freeze_steps": 3}, "go together"),
        ({"kl_coef": 1.0}, "go together"),
        ({"critic_warmup": -1}, "expected 0 or more"),
    ],
    ids=str,
)
def test_wrong_settings_are_one_line(tmp_path: Path, values: dict[str, Any], expected: str) -> None:
    write_backbone(tmp_path / "b")
    with pytest.raises(ValueError) as caught:
        settings_of(tmp_path / "b", **values)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def _policy_hash(learner: Any) -> str:
    """Return the hash of everything that decides a PPO's actions."""
    state = learner.model.policy.state_dict()
    return tensor_hash({name: value for name, value in state.items() if "value_net" not in name})


def test_a_warm_up_trains_the_critic_alone(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b", net_arch=(8,))
    learner = learner_of(settings_of(tmp_path / "b", critic_warmup=128))
    policy = learner.model.policy
    before, value = _policy_hash(learner), policy.value_net.weight.clone()
    learner.train_iteration()
    learner.train_iteration()
    assert learner.steps == 128 and _policy_hash(learner) == before and not torch.equal(policy.value_net.weight, value)
    learner.train_iteration()
    assert _policy_hash(learner) != before


@pytest.mark.parametrize("world", ["cartpole", "pendulum", "tic_tac_toe"])
def test_the_divergence_is_that_of_the_teacher_from_the_policy(tmp_path: Path, world: str) -> None:
    write_backbone(tmp_path / "b", world=world)
    learner = learner_of(settings_of(tmp_path / "b", kl_coef=1.0, kl_steps=10_000), world=world, learning_rate=0.01)
    teacher = learner.backbone._teacher
    observations = torch.from_numpy(learner.vec_env.current_observations()).float()
    masks = learner.vec_env.action_masks() if world == "tic_tac_toe" else None
    assert abs(float(teacher.divergence(observations, masks).detach())) < 1e-6
    metrics = learner.train_iteration()
    metrics = learner.train_iteration()
    divergence = float(teacher.divergence(observations, masks).detach())
    assert divergence > 1e-6 and metrics["train/teacher_kl"] > 0
    assert teacher.coefficient == pytest.approx(1 - 0.5 * learner.steps / 10_000)


def test_the_teacher_holds_the_policy_near_itself(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b")
    divergences = []
    for weight in (1e-9, 100.0):
        settings = settings_of(tmp_path / "b", kl_coef=weight, kl_steps=2**40)
        learner = learner_of(settings, learning_rate=3e-3)
        for _ in range(6):
            learner.train_iteration()
        observations = torch.from_numpy(np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32))
        divergences.append(float(learner.backbone._teacher.divergence(observations).detach()))
    assert divergences[1] < divergences[0] / 2


def test_the_teacher_adds_its_weight_times_the_divergence_and_nothing_else(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b")
    hashes = []
    for values in ({}, {"kl_coef": 1e-30, "kl_steps": 2**40}):  # too small a weight to change a bit of a gradient
        learner = learner_of(settings_of(tmp_path / "b", **values))
        learner.train_iteration()
        learner.train_iteration()
        hashes.append(tensor_hash(learner.model.policy.state_dict()))
    assert hashes[0] == hashes[1]


def test_fine_tuning_is_the_librarys_training_from_other_weights(tmp_path: Path) -> None:
    """The same policy in an algorithm that nothing was attached to ends with the same bits."""
    from rl_lab.adapters import make
    from rl_lab.learners.sb3.learner import Sb3Learner

    write_backbone(tmp_path / "b")
    learner = learner_of(settings_of(tmp_path / "b"))
    begin = {name: value.clone() for name, value in learner.model.policy.state_dict().items()}
    metrics = [learner.train_iteration() for _ in range(3)]
    factory = agent_registry.load("ppo")
    envs, config = make.make("cartpole", 4, seed=3), factory.Config(n_steps=16, batch_size=32, n_epochs=2)
    arguments = factory.library_arguments(config, envs.world, settings_of(tmp_path / "b"))
    options = {"normalize_observations": False, "normalize_rewards": False}
    plain = Sb3Learner("ppo", PPO, envs, budget=4096, seed=3, device="cpu", arguments=arguments, **options)
    plain.model.policy.load_state_dict(begin)
    assert metrics == [plain.train_iteration() for _ in range(3)]
    assert tensor_hash(learner.model.policy.state_dict()) == tensor_hash(plain.model.policy.state_dict())


def test_a_critic_or_a_teacher_is_refused_where_there_is_none(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b")
    with pytest.raises(ValueError, match="are for agent=ppo"):
        learner_of(settings_of(tmp_path / "b", critic_warmup=8), agent="dqn")
    with pytest.raises(ValueError, match="needs the backbone's policy"):
        learner_of(settings_of(tmp_path / "b", kl_coef=1.0, kl_steps=8, parts=["trunk"]))


@pytest.mark.parametrize("world", ["cartpole", "tic_tac_toe"])
def test_encoded_observations_give_the_frozen_policys_actions(tmp_path: Path, world: str) -> None:
    write_backbone(tmp_path / "b", world=world)
    frozen, encoded = (
        learner_of(settings_of(tmp_path / "b", mode=mode), world=world) for mode in ("frozen", "encoded")
    )
    assert encoded.model.observation_space.shape == (64,)
    shape = frozen.vec_env.envs.world.observation.shape
    observations = np.random.default_rng(0).normal(size=(200, *shape)).astype(frozen.vec_env.envs.observations.dtype)
    first, second = (learner.agent().act(observations)[0] for learner in (frozen, encoded))
    assert (first == second).mean() > 0.99  # rounding may decide between equal actions


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_an_encoded_agent_is_saved_with_its_encoder(tmp_path: Path, agent: str) -> None:
    model = write_backbone(tmp_path / "b")
    settings = settings_of(tmp_path / "b", mode="encoded")
    learner = learner_of(settings, agent=agent)
    encoder = tensor_hash(learner.encoder.arrays())
    for _ in range(2):
        learner.train_iteration()
    assert tensor_hash(learner.encoder.arrays()) == encoder == tensor_hash(model.trunk.state_dict())
    factory, world = agent_registry.load(agent), learner.vec_env.envs.world
    observations = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    expected = learner.agent().act(observations)[0].tolist()
    for saved in (learner.save_agent(), learner.save()):
        loaded = factory.load(factory.Config(), world, saved, device="cpu", backbone=settings)
        assert loaded.act(observations)[0].tolist() == expected
    del saved.tensors["encoder"]["layers.0.bias"]
    with pytest.raises(ValueError, match="do not fit the backbone"):
        factory.load(factory.Config(), world, saved, device="cpu", backbone=settings)


def test_the_ends_of_episodes_are_encoded(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b")
    learner = learner_of(settings_of(tmp_path / "b", mode="encoded"))
    env = learner.vec_env
    env.reset()
    ended = 0
    while ended < 3:
        observations, _, dones, infos = env.step(np.zeros(4, np.int64))
        assert observations.shape == (4, 64)
        assert np.array_equal(observations, learner.encoder(env.envs.observations[:, 0]))
        for row in np.flatnonzero(dones):
            final = learner.encoder(env.envs.final_observations[row])
            assert np.allclose(infos[row]["terminal_observation"], final[0], atol=1e-6)
            ended += 1


def test_compiled_code_learns_from_encoded_observations(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b", layer_norm=True)  # which compiled code does not know
    learner = learner_of(settings_of(tmp_path / "b", mode="encoded"), compiled=True)
    assert learner.backend.startswith("compiled; backbone: mlp ") and ", encoded, " in learner.backend
    before = tensor_hash(learner.model.policy.state_dict())
    learner.train_iteration()
    assert tensor_hash(learner.model.policy.state_dict()) != before
