"""Tests of scenarios: those of the lab, overrides, a user's own files, and everything that is refused in one line."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import types
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rl_lab.core import agent_registry
from rl_lab.core.errors import UsageError
from rl_lab.engine import world_registry
from rl_lab.experiments import scenario_yaml
from rl_lab.experiments.compose import compose
from rl_lab.experiments.overrides import sweep_combinations
from rl_lab.experiments.scenario import Scenario
from rl_lab.experiments.scenario_yaml import ScenarioError

FUZZ_SETTINGS = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
SCENARIOS_AND_AGENTS = [(name, agent) for name in scenario_yaml.names() for agent in compose(name).expect]


def expect_refusal(target: Any, *overrides: str) -> str:
    """Check that a scenario is refused with one line that is not empty, and return it."""
    with pytest.raises(ScenarioError) as error:
        compose(str(target), overrides)
    message = str(error.value)
    assert message.strip() and len(message.splitlines()) == 1
    return message


def write_yaml(tmp_path: Path, text: str, name: str = "mine.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


# --- Scenarios of the lab


@pytest.mark.parametrize("name", scenario_yaml.names())
def test_a_scenario_of_the_lab_composes_and_has_expected_returns_with_sources(name: str) -> None:
    composed = compose(name)
    assert composed.name == name
    assert composed.world in world_registry.names()
    assert composed.agent in composed.expect, "it says nothing of what its own agent must reach"
    for agent, expected in composed.expect.items():
        assert agent in agent_registry.names()
        assert math.isfinite(expected.mean_return)
        assert len(expected.source) > 10, "where is the figure from?"


@pytest.mark.parametrize("name", scenario_yaml.names())
def test_the_tuned_values_of_a_scenario_of_the_lab_are_used(name: str) -> None:
    write_yaml = yaml.safe_load((scenario_yaml.folder() / f"{name}.yaml").read_text())
    for agent, tuned in write_yaml.get("tuned", {}).items():
        composed = compose(name, [f"agent={agent}"])
        for key, value in tuned.items():
            configured = getattr(composed.config if hasattr(composed.config, key) else composed, key)
            if isinstance(value, dict):
                assert {name: getattr(configured, name) for name in value} == value
            else:
                assert configured == (float(value) if isinstance(configured, float) else value)


@pytest.mark.parametrize("name, agent", [*SCENARIOS_AND_AGENTS, ("catch", "random"), ("catch", "scripted")])
def test_as_config_reads_back_as_the_same_scenario(name: str, agent: str, tmp_path: Path) -> None:
    composed = compose(name, [f"agent={agent}", "seed=7", "evaluation.episodes=3", "run_dir=elsewhere"])
    text = OmegaConf.to_yaml(OmegaConf.create(composed.as_config()))
    read_back = compose(str(write_yaml(tmp_path, text)))
    assert read_back == dataclasses.replace(composed, run_dir=None)
    assert read_back.as_config() == composed.as_config()


def test_as_config_of_a_third_party_environment_reads_back(tmp_path: Path) -> None:
    composed = compose("gym:CartPole-v1", ["+world.params.sutton_barto_reward=true", "agent.target_kl=0.02"])
    assert composed.params == {"sutton_barto_reward": True}
    text = OmegaConf.to_yaml(OmegaConf.create(composed.as_config()))
    assert compose(str(write_yaml(tmp_path, text))) == composed


# --- Overrides


@pytest.mark.parametrize(
    "override, path, value",
    [
        ("agent.learning_rate=3e-4", "config.learning_rate", 3e-4),
        ("agent.learning_rate=1", "config.learning_rate", 1.0),
        ("agent.net_arch=[32,16]", "config.net_arch", [32, 16]),
        ("agent.net_arch=[]", "config.net_arch", []),
        ("agent.target_kl=0.1", "config.target_kl", 0.1),
        ("agent.target_kl=null", "config.target_kl", None),
        ("agent.normalize_advantage=false", "config.normalize_advantage", False),
        ("agent.activation=relu", "config.activation", "relu"),
        ("seed=5", "seed", 5),
        ("budget=1_000", "budget", 1000),
        ("worlds=3", "worlds", 3),
        ("device=cpu", "device", "cpu"),
        ("video=false", "video", False),
        ("run_dir=a b/c", "run_dir", "a b/c"),
        ("run_dir=null", "run_dir", None),
        ("evaluation.episodes=9", "evaluation.episodes", 9),
        ("evaluation.deterministic=false", "evaluation.deterministic", False),
        ("checkpoint.seconds=1", "checkpoint.seconds", 1.0),
        ("checkpoint.keep_last=9", "checkpoint.keep_last", 9),
    ],
)
def test_an_override_has_the_type_of_its_key(override: str, path: str, value: Any) -> None:
    value_of_key: Any = compose("cartpole", [override])
    for name in path.split("."):
        value_of_key = getattr(value_of_key, name)
    assert value_of_key == value
    assert type(value_of_key) is type(value)


def test_a_parameter_of_the_world_is_overridden() -> None:
    assert compose("cartpole", ["world.params.gravity=3e0"]).params["gravity"] == 3.0


@pytest.mark.parametrize("text", ["3e-4", "3E-4", "0.0003", "3.0e-4"])
def test_a_float_in_a_file_is_a_float(text: str, tmp_path: Path) -> None:
    path = write_yaml(tmp_path, f"world: cartpole\nagent: {{learning_rate: {text}}}\n")
    assert compose(str(path)).config.learning_rate == 3e-4


def test_a_composition_does_not_affect_the_next_one() -> None:
    before = compose("cartpole")
    compose("cartpole", ["seed=9", "agent.gamma=0.5", "world.params.gravity=1"])
    assert compose("cartpole") == before


def test_an_edited_file_is_read_again_and_a_result_that_is_changed_is_not_given_out_again(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for budget in (5000, 6000, 5000):
        file.write_text(f"world: catch\nbudget: {budget}\n")
        scenario = compose(str(file))
        assert scenario.budget == budget and scenario.params == {"speed": 1}
        scenario.params["speed"] = 3


def test_a_program_may_use_hydra_too() -> None:
    with hydra.initialize(config_path=None, version_base="1.3"):
        compose("catch", ["budget=7777"])
        assert hydra.compose(overrides=["+mine=1"]).mine == 1


def test_the_later_of_two_overrides_wins() -> None:
    assert compose("cartpole", ["seed=1", "agent=dqn", "seed=2", "agent=ppo"]).seed == 2


def test_tuned_values_are_for_their_agent_and_the_agents_own_keys_come_first(tmp_path: Path) -> None:
    text = """
    world: cartpole
    tuned:
      ppo: {gamma: 0.1, gae_lambda: 0.2, vf_coef: 0.3}
      dqn: {gamma: 0.4}
    agent: {name: ppo, gae_lambda: 0.5, vf_coef: 0.6}
    """
    path = str(write_yaml(tmp_path, text))
    config = compose(path, ["agent.vf_coef=0.7"]).config
    assert (config.gamma, config.gae_lambda, config.vf_coef) == (0.1, 0.5, 0.7)
    other = compose(path, ["agent=dqn"])
    assert (other.agent, other.config.gamma) == ("dqn", 0.4)


def test_another_world_has_its_own_parameters() -> None:
    composed = compose("cartpole", ["world=catch", "world.params.speed=2"])
    assert (composed.world, composed.params) == ("catch", {"speed": 2})


# --- A user's own files


def test_a_users_file_inherits_a_scenario_of_the_lab(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, "defaults: [cartpole, _self_]\nseed: 3\nagent: {gamma: 0.5}\n")
    mine, base = compose(str(path)), compose("cartpole")
    assert (mine.seed, mine.config.gamma) == (3, 0.5)
    assert mine.config == dataclasses.replace(base.config, gamma=0.5)
    assert (mine.world, mine.worlds, mine.budget, mine.expect) == (base.world, base.worlds, base.budget, base.expect)


def test_a_users_file_inherits_a_file_in_its_folder(tmp_path: Path) -> None:
    write_yaml(tmp_path, "world: catch\nseed: 1\nbudget: 10\n", "base.yaml")
    mine = compose(str(write_yaml(tmp_path, "defaults: [base, _self_]\nseed: 2\n")))
    assert (mine.world, mine.seed, mine.budget) == ("catch", 2, 10)


@pytest.mark.parametrize(
    "name", ["a=b.yaml", "a b.yaml", "a,b.yaml", "x.y.yaml", "[x].yaml", "é.yaml", "-.yaml", "s.yml"]
)
def test_a_recipe_may_have_any_file_name(name: str, tmp_path: Path) -> None:
    assert compose(str(write_yaml(tmp_path, "world: catch\nseed: 7\n", name))).seed == 7


def test_yaml_and_yml_files_of_one_name_are_different_recipes(tmp_path: Path) -> None:
    write_yaml(tmp_path, "world: catch\nseed: 1\n", "mine.yaml")
    assert compose(str(write_yaml(tmp_path, "world: catch\nseed: 2\n", "mine.yml"))).seed == 2


@pytest.mark.parametrize("folder", ["a,b", "a=b [c]", "${x}", "ö", "a#b", "a%20b"])
def test_a_recipe_may_lie_in_a_folder_of_any_name(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    path = write_yaml(tmp_path / folder, "defaults: [catch, _self_]\nseed: 7\n")
    assert compose(str(path)).seed == 7


@pytest.mark.parametrize("name", world_registry.names())
def test_a_world_without_a_scenario_composes_with_defaults(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario_yaml, "names", lambda: [])
    composed = compose(name)
    assert (composed.name, composed.world, composed.agent) == (name, name, "ppo")
    assert composed.params == dict(world_registry.load(name).Params.defaults)


def test_compose_accepts_a_world_object() -> None:
    world = world_registry.load("catch")
    composed = compose(world, ["world.params.speed=2"])
    assert composed.world == "catch.py:world" and composed.params == {"speed": 2}
    with pytest.raises(UsageError, match="top of a file") as error:
        compose(dataclasses.replace(world, horizon=7))
    assert len(str(error.value)) < 200


def test_the_scenario_of_a_third_party_environment_has_a_name_without_slashes() -> None:
    assert compose("gym:phys2d/CartPole-v1").name == "gym-phys2d-CartPole-v1"


def test_a_null_name_of_an_agent_means_the_default_agent(tmp_path: Path) -> None:
    composed = compose(str(write_yaml(tmp_path, "world: catch\nagent: {name: null, gamma: 0.5}")))
    assert (composed.agent, composed.config.gamma) == ("ppo", 0.5)


# --- What is refused


def test_a_hyperparameter_of_a_type_that_hydra_does_not_support_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Config:
        phase: complex = 1j

    compose("catch")  # the types of text keys are looked up once
    monkeypatch.setattr(agent_registry, "load", lambda name: types.SimpleNamespace(Config=Config))
    assert "complex" in expect_refusal(write_yaml(tmp_path, "world: catch"))


@pytest.mark.parametrize(
    "target, override, message",
    [
        ("cartpol", "", "did you mean 'cartpole'?"),
        ("cartpole", "world=cach", "did you mean 'catch'?"),
        ("cartpole", "agent=dqnn", "did you mean 'dqn'?"),
        ("cartpole", "sed=1", "did you mean 'seed'?"),
        ("cartpole", "agent.learning_rat=1", "did you mean 'agent.learning_rate'?"),
        ("cartpole", "agnt.gamma=1", "did you mean 'agent'?"),
        ("cartpole", "evaluation.episode=1", "did you mean 'evaluation.episodes'?"),
        ("cartpole", "world.params.gravty=3", "did you mean 'world.params.gravity'?"),
        ("cartpole", "device=gpu", "did you mean 'cpu'?"),
        ("cartpole", "policie={a: [x]}", "did you mean 'policies'?"),
        ("nosuch.yaml", "", "no scenario file nosuch.yaml"),
    ],
)
def test_an_unknown_name_or_key_is_refused_with_the_nearest_one(target: str, override: str, message: str) -> None:
    assert message in expect_refusal(target, *filter(None, [override]))


@pytest.mark.parametrize(
    "text, message",
    [
        ("seed: 1", "names no world"),
        ("world: cach", "did you mean 'catch'?"),
        ("world: catch\nsed: 1", "did you mean 'seed'?"),
        ("world: catch\nexpct: {}", "did you mean 'expect'?"),
        ("world: catch\ntund: {}", "did you mean 'tuned'?"),
        ("world: catch\ndefault: []", "did you mean 'defaults'?"),
        ("world: catch\nleage: {}", "did you mean 'league'?"),
        ("world: {name: null}", "names no world"),
        ("world: catch\nagent: {gama: 1}", "did you mean 'gamma'?"),
        ("world: catch\nagent: dqnn", "did you mean 'dqn'?"),
        ("world: {name: catch, params: {sped: 2}}", "did you mean 'speed'?"),
        ("world: catch\ntuned: {pppo: {gamma: 1}}", "ppo"),
        ("world: catch\nexpect: {pppo: {mean_return: 1, source: somewhere}}", "ppo"),
        ("world: catch\nseed: abc", "seed"),
        ("world: catch\nseed: [1", "mine.yaml"),
        ("world: catch\n\tseed: 1", "mine.yaml"),
        ("world: catch\nseed: 1\nseed: 2", "mine.yaml"),
        ("world: catch\nseed: null", "seed"),
        ("world: catch\nseed: 1.5", "seed"),
        ("world: catch\nbudget: .inf", "budget"),
        ("world: catch\nevaluation: null", "evaluation"),
        ("world: catch\nevaluation: {episodes: many}", "evaluation.episodes"),
        ("world: catch\nagent: {net_arch: 3}", "agent.net_arch"),
        ("world: catch\nagent: {name: {a: b}}", "agent"),
        ("world: catch\nexpect: 3", "expect"),
        ("world: catch\nexpect: {ppo: 3}", "expect"),
        ("world: catch\nexpect: {ppo: {mean_return: .nan, source: somewhere}}", "expect"),
        ("world: catch\ntuned: 3", "tuned"),
        ("world: 3", "world"),
        ("[1, 2]", "mine.yaml"),
        ("1: 2", "mine.yaml"),
        ("---\na: 1\n---\nb: 2\n", "mine.yaml"),
        ("a: *nowhere", "mine.yaml"),
        ('world: catch\n"a\\nb": 1', "unknown key"),
        ('world: catch\nseed: "a\\nb"', "seed"),
        ("world: catch\nname: ../../elsewhere", "name"),
        ("world: catch\nname: a/b", "name"),
        ("world: catch\nname: ''", "name"),
        ("world: catch\nseed: " + "9" * 5000, "mine.yaml"),
        ("defaults: 3\nworld: catch", "mine.yaml"),
        ("defaults: [null]\nworld: catch", "mine.yaml"),
        ("defaults: [nosuch, _self_]\nworld: catch", "nosuch"),
        ("defaults: [mine, _self_]\nworld: catch", "mine.yaml"),
    ],
)
def test_a_mistake_in_a_file_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    assert message in expect_refusal(write_yaml(tmp_path, text))


def test_a_file_can_inherit_the_scenario_of_the_lab_with_its_own_name(tmp_path: Path) -> None:
    """A file named as a scenario of the lab inherits that scenario: users begin in this way."""
    mine = compose(str(write_yaml(tmp_path, "defaults: [cartpole, _self_]\nseed: 3\n", "cartpole.yaml")))
    assert dataclasses.replace(mine, seed=0) == compose("cartpole")


def test_files_that_inherit_each_other_are_refused(tmp_path: Path) -> None:
    write_yaml(tmp_path, "defaults: [mine]\n", "yours.yaml")
    expect_refusal(write_yaml(tmp_path, "defaults: [yours]\nworld: catch\n"))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x80abc", b"\x00", b"world: catch\nname: \x07"])
def test_a_file_that_is_no_text_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert "mine.yaml" in expect_refusal(path)


@pytest.mark.parametrize(
    "override",
    """seed=abc seed=1.5 seed=true seed=null seed=-1 seed=2147483648 seed= worlds=0 worlds=16777216 budget=0 threads=0
    threads=9999 video=maybe device=tpu evaluation.episodes=0 evaluation.selections=-1 evaluation.selection_episodes=0
    evaluation.deterministic=null checkpoint.keep_last=0 checkpoint.seconds=-1 checkpoint.seconds=nan
    checkpoint.steps=-1 agent.learning_rate=abc agent.net_arch=[a] agent.net_arch=32 agent.net_arch=null
    agent.gamma=null world.params.gravity=abc world.params.gravity=nan world.params.gravity=1e39
    world.params.gravity=null world.params.gravity=[1] evaluation={} checkpoint=null world.params={} expect={}
    expect.ppo.mean_return=0 agent.name=dqn world.name=catch tuned.ppo.gamma=1 agent.gamma.x=1 name=../x name=a/b
    name= =3 a==b key /seed=1 seed=${seed}""".split()
    + ["seed=" + "9" * 5000, "agent.net_arch=" + "[" * 300],
)
def test_a_wrong_value_is_refused_in_one_line(override: str) -> None:
    expect_refusal("cartpole", override)


@pytest.mark.parametrize(
    "override",
    "+x=1 ++x=1 ~x=1 ~seed=0 ~seed ~world=cartpole ~agent=ppo ~agent.gamma=0.98 seed@a=1 world@a=catch agent@a=dqn "
    "a@b=c seed@=1 hydra.run.dir=x hydra/launcher=basic hydra=1 hydra.searchpath=[pkg://os] _target_=os.system "
    "agent._target_=os.system world._target_=os.system world.params._target_=os.system".split(),
)
def test_hydras_own_grammar_and_targets_are_refused(override: str) -> None:
    expect_refusal("cartpole", override)


@pytest.mark.parametrize(
    "override",
    ["agent.policy=${oc.env:SECRET}", "name=${oc.env:SECRET}", "run_dir=${oc.env:SECRET}", "world=${oc.env:SECRET}"],
)
def test_an_override_cannot_read_environment_variables(override: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "swordfish")
    assert "swordfish" not in expect_refusal("cartpole", override)


@pytest.mark.parametrize(
    "text",
    [
        "_target_: os.system",
        '"_targ\\u0065t_": os.system',
        "agent: {_target_: os.system}",
        "world: {name: 'gym:CartPole-v1', params: {_target_: os.system}}",
        "world: {name: 'gym:CartPole-v1', params: {\"_targ\\u0065t_\": os.system}}",
        "name: ${oc.env:SECRET}",
        "name: '${oc.env:SECRET}'",
        "name: '${oc.env\n :SECRET}'",
        'name: "$\\u007boc.env:SECRET}"',
        'name: "\\x24\\x7boc.env\\x3aSECRET}"',
        "agent: {policy: '${oc.decode:${oc.env:SECRET}}'}",
        "hydra: {run: {dir: x}}",
        "'hydra': {run: {dir: x}}",
        '"hydr\\u0061": {searchpath: ["pkg://planted"]}',
        "? hydra\n: {searchpath: ['pkg://planted']}",
        "defaults:\n  - override hydra/job_logging: none\n  - _self_",
        "defaults:\n  - /hydra/job_logging: none\n  - _self_",
        "name: !!python/object/apply:os.system ['true']",
        "name: !!python/name:os.system",
        "name: !anything x",
    ],
)
def test_recipes_that_could_run_code_or_read_variables_are_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "swordfish")
    plant_a_module(tmp_path, monkeypatch)
    recipe = text if text.startswith("world:") else f"{text}\nworld: catch\n"
    assert "swordfish" not in expect_refusal(write_yaml(tmp_path, recipe))
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("header", ["hydra", "hydra.run", "a.b"])
def test_hydras_package_header_in_a_file_has_no_effect(header: str, tmp_path: Path) -> None:
    assert compose(str(write_yaml(tmp_path, f"# @package {header}\nworld: catch\nseed: 4\n"))).seed == 4


def test_an_inherited_file_cannot_read_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "swordfish")
    write_yaml(tmp_path, "world: catch\nname: ${oc.env:SECRET}\n", "base.yaml")
    assert "swordfish" not in expect_refusal(write_yaml(tmp_path, "defaults: [base, _self_]\n"))


def plant_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'imported')!r}).touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "planted", raising=False)


@pytest.mark.parametrize("identity", ["gym:planted:Any-v0", "gym:planted", "gym:planted.any:Any-v0"])
def test_a_recipe_cannot_import_a_module_by_the_name_of_a_world(
    identity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rl_lab.adapters import make

    plant_a_module(tmp_path, monkeypatch)
    composed = compose(str(write_yaml(tmp_path, f"world: '{identity}'\n")))
    with pytest.raises(ValueError, match="planted"):
        make.make(composed.world, 1, composed.params)
    assert not (tmp_path / "imported").exists()


def test_an_import_of_the_planted_module_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_a_module(tmp_path, monkeypatch)
    __import__("planted")
    assert (tmp_path / "imported").exists()
    del sys.modules["planted"]


# --- Sweeps


@pytest.mark.parametrize(
    "override", ["seed=1,2", "agent=ppo,dqn", "seed=range(1,5)", "seed=choice(1,2)", "seed=glob(*)"]
)
def test_several_values_without_a_sweep_are_refused(override: str) -> None:
    assert "add -m" in expect_refusal("cartpole", override)


def test_a_sweep_is_the_product_of_its_values() -> None:
    combinations = sweep_combinations(["agent=ppo,dqn", "worlds=4", "seed=0,1,2"])
    assert combinations == [
        [f"agent={agent}", "worlds=4", f"seed={seed}"] for agent in ("ppo", "dqn") for seed in range(3)
    ]
    assert [compose("cartpole", each).seed for each in combinations] == [0, 1, 2, 0, 1, 2]


def test_ranges_and_lists_in_a_sweep() -> None:
    assert [c[0] for c in sweep_combinations(["seed=range(0,3)"])] == ["seed=0", "seed=1", "seed=2"]
    nets = [compose("catch", c).config.net_arch for c in sweep_combinations(["agent.net_arch=[8,8],[16]"])]
    assert nets == [[8, 8], [16]]
    assert sweep_combinations([]) == [[]]


def test_a_glob_in_a_sweep_is_refused() -> None:
    with pytest.raises(ScenarioError):
        for combination in sweep_combinations(["seed=glob(*)"]):
            compose("cartpole", combination)


# --- Random input

SOME_KEYS = st.sampled_from(
    "seed world agent agent.gamma agent.policy agent.net_arch world.params.speed evaluation.episodes name run_dir "
    "checkpoint device video".split()
)


def check_scenario_or_one_line(target: str, overrides: list[str]) -> None:
    try:
        assert isinstance(compose(target, overrides), Scenario)
    except ScenarioError as error:
        assert len(str(error).splitlines()) == 1


@FUZZ_SETTINGS
@given(st.text(max_size=30))
@example("~seed=0")
@example("hydra='a\nb'")
@example("seed=1\u2028,2")
@example("+hydra.x='\x85'")
@example("world='gym:\u2028'")
def test_any_text_as_an_override_composes_or_is_refused_in_one_line(text: str) -> None:
    check_scenario_or_one_line("catch", [text])


@FUZZ_SETTINGS
@given(SOME_KEYS, st.text(max_size=20) | st.floats().map(str) | st.integers().map(str))
@example("seed", "'a\nb'")
@example("device", "'a\u2028b'")
@example("name", "'a\x0bb'")
@example("run_dir", "'\x00'")
def test_any_value_of_a_valid_key_composes_or_is_refused_in_one_line(key: str, text: str) -> None:
    check_scenario_or_one_line("catch", [f"{key}={text}"])


ANY_DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
TOP_LEVEL_KEYS = SOME_KEYS.filter(lambda key: "." not in key) | st.sampled_from(
    ["tuned", "expect", "defaults", "evaluation", "worlds"]
)


@pytest.fixture(scope="module")
def fuzz_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@FUZZ_SETTINGS
@given(text=st.text(max_size=60))
@example(text="[" * 3000)
@example(text="{a: " * 600)
@example(text="a: &a {b: *a}")
@example(text="name: '\u2028x")
def test_any_text_as_a_file_composes_or_is_refused_in_one_line(text: str, fuzz_folder: Path) -> None:
    path = fuzz_folder / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    check_scenario_or_one_line(str(path), [])


@FUZZ_SETTINGS
@given(recipe=st.dictionaries(TOP_LEVEL_KEYS, ANY_DATA, max_size=3))
@example(recipe={"agent": {"name": {"a": "b"}}})
@example(recipe={"agent": {"name": "ppo", "policy": "${"}})
@example(recipe={"tuned": {"ppo": {"name": "dqn"}}})
@example(recipe={"expect": {"ppo": {"mean_return": 10**400, "source": ""}}})
@example(recipe={"seed": 10**400})
def test_any_data_as_a_file_composes_or_is_refused_in_one_line(recipe: dict[str, Any], fuzz_folder: Path) -> None:
    path = fuzz_folder / "any.yaml"
    path.write_text(yaml.safe_dump({"world": "catch", **recipe}), encoding="utf-8")
    check_scenario_or_one_line(str(path), [])


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "folder.yaml"
    path.mkdir()
    expect_refusal(path)
    loop = tmp_path / "loop.yaml"
    os.symlink(loop, loop)
    expect_refusal(loop)
    expect_refusal("x" * 5000 + ".yaml")
    expect_refusal("a\0b.yaml")


def test_an_empty_run_dir_is_refused() -> None:
    with pytest.raises(ScenarioError, match="run_dir is empty: name a folder"):
        compose("catch", ["run_dir="])
