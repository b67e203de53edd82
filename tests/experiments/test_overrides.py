"""Tests of overrides: text values are taken as they are typed, lists of values are a sweep, errors have plain words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rl_lab.cli import main
from rl_lab.experiments import scenario_yaml
from rl_lab.experiments.compose import compose
from rl_lab.experiments.overrides import sweep_combinations
from rl_lab.experiments.scenario_yaml import ScenarioError

LITERALS = ["2024_05_01", "1.10", "1e3", "true", "0x10", "inf", "~", "{a: 1}", "[x]", "a,b", "a=b", "a#b", "'x'", '"']
TEXT = st.sampled_from(LITERALS) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def text_without_interpolation(text: str) -> bool:
    return "${" not in text and text != "null"


@settings(deadline=None, max_examples=30)
@given(TEXT.filter(text_without_interpolation))
@example("größe (1) #2 ~x'=")
@example("runs/_target_")
@example("a\\' b\\")
def test_run_dir_is_taken_exactly_as_it_is_typed(text: str) -> None:
    assert compose("catch", [f"run_dir={text}"]).run_dir == text


@pytest.mark.parametrize(
    "key", ["device", "role", "agent.policy", "agent.activation", "league.selection", "evaluation.actions"]
)
@pytest.mark.parametrize("value", ["2024_05_01", "1.10", "1e3", "true", "ü=(#'~"])
def test_an_invalid_text_is_quoted_in_the_error_as_it_was_typed(key: str, value: str) -> None:
    lines = [f"{key}={value}", *(["opponent=random"] if key == "role" else [])]
    target = "tic_tac_toe" if key == "role" else "kuhn_poker_league" if key.startswith("league") else "catch"
    try:
        composed = compose(target, lines)
    except ScenarioError as error:
        assert value in str(error)
    else:  # an agent's own texts are judged where it is made
        assert getattr(composed.config, key.partition(".")[2]) == value


@pytest.mark.parametrize("key", ["world", "agent", "opponent"])
@pytest.mark.parametrize("value", ["1e3", "true", "2024_05_01", "ü=(#'~"])
def test_an_unknown_name_is_quoted_in_the_error_as_it_was_typed(key: str, value: str) -> None:
    with pytest.raises(ScenarioError) as error:
        compose("tic_tac_toe", [f"{key}={value}"])
    assert value in str(error.value)


def test_a_path_of_an_opponent_may_look_like_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "tic_tac_toe", "run_dir=2024_05_01", "budget=64", "worlds=2", "agent.n_steps=16"]
    words += ["agent.batch_size=16", "agent.net_arch=[8]", "evaluation.episodes=2", "evaluation.selections=1"]
    assert main([*words, "evaluation.selection_episodes=2", "video=false"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["2024_05_01"]
    opponent: Any = compose("tic_tac_toe", ["opponent=2024_05_01"]).opponent
    assert opponent["path"] == "2024_05_01"
    assert compose("tic_tac_toe", ["opponent=random", "opponent=null"]).opponent is None


def test_commas_separate_values_only_in_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sweep_combinations(["agent.policy=mlp,cnn", "seed=0"]) == [
        ["agent.policy=mlp", "seed=0"],
        ["agent.policy=cnn", "seed=0"],
    ]
    assert sweep_combinations(["run_dir=1e3"]) == [["run_dir=1e3"]]
    assert sweep_combinations(["world=1.10,true"]) == [["world=1.10"], ["world=true"]]
    mixed = sweep_combinations(["opponent={name: mcts, simulations: 5},random", "seed=range(0,2)"])
    assert [line for line, _ in mixed[::2]] == ["opponent={name: mcts, simulations: 5}", "opponent=random"]
    opponents: list[Any] = [compose("tic_tac_toe", lines).opponent for lines in mixed]
    assert [(each["name"], each.get("simulations")) for each in opponents[::2]] == [("mcts", 5), ("random", None)]
    with pytest.raises(ScenarioError, match="add -m"):
        compose("tic_tac_toe", ["opponent=random,mcts"])


def test_a_comma_in_the_path_of_an_existing_file_does_not_separate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a,b.py").touch()
    assert sweep_combinations(["world=a,b.py"]) == [["world=a,b.py"]]
    assert sweep_combinations(["world=a,c.py"]) == [["world=a"], ["world=c.py"]]


@pytest.mark.parametrize(
    "lines",
    [
        "seed=0,1,0",
        "seed=choice(1,2,1)",
        "world=catch,catch",
        "agent.gamma=0.5,5e-1",
        "agent.gamma=1,1.0",
        "seed=1,'1'",
        "budget=1e3,1000",
        "agent.net_arch=[8,8],[8, 8]",
        "seed=0,1 seed=0,1",
        "seed=0,1 seed=2,3",
        "seed=0,1 seed=2",
        "+world.params.speed=1,2 world.params.speed=3",
    ],
)
def test_a_sweep_that_lists_a_value_twice_is_refused(lines: str) -> None:
    """The seeds of a table are independent samples: one that counts twice makes its interval too narrow."""
    with pytest.raises(ScenarioError, match="twice"):
        sweep_combinations(re.split(r" (?=[a-z+.]+=)", lines))


def test_a_sweep_with_different_values_is_accepted() -> None:
    for line in ("seed=9007199254740992,9007199254740993", "name=1,1.0", "seed=0,1", "video=true,false"):
        assert len(sweep_combinations([line])) == 2
    assert sweep_combinations(["seed=1", "seed=2"]) == [["seed=1", "seed=2"]], (
        "without a sweep the last one counts, as in train"
    )
    assert sweep_combinations(["seed=2", "seed=0,1"]) == [["seed=2", "seed=0"], ["seed=2", "seed=1"]]


def test_text_parameters_of_a_world_can_be_swept() -> None:
    line = "world.params.map_name=größe,klein"
    assert sweep_combinations([line]) == [["world.params.map_name=größe"], ["world.params.map_name=klein"]]
    assert [compose("gym:FrozenLake-v1", each).params["map_name"] for each in sweep_combinations([line])] == [
        "größe",
        "klein",
    ]
    assert compose("gym:FrozenLake-v1", [line]).params["map_name"] == "größe,klein"


@pytest.mark.parametrize("line", ["seed=range(0,3),1", "seed=interval(0,1)", "seed=glob(*)", "seed=range(0,1,0)"])
def test_a_sweep_without_a_list_of_values_is_refused(line: str) -> None:
    with pytest.raises(ScenarioError, match="write key=A,B,C"):
        sweep_combinations([line])


@pytest.mark.parametrize("name", ["my=world.py", "./a=b/my=world.py", "ü=1.py"])
def test_the_first_word_may_be_a_file_with_an_equals_sign(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("raise ValueError('it was imported')")
    for reference in (name, f"{name}:world"):
        assert main(["train", reference, "budget=1"]) == 1
        assert "it was imported" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line, message_part",
    [
        ("policies={Hünter: [predator], prey: [prey]}", "a-z, 0-9 and _"),
        ("policies={'a b': [predator]}", "a-z, 0-9 and _"),
        ("policies={a: [prédator]}", "write policies={NAME: [AGENT"),
        ("agent.net_arch=ü", "'ü'"),
        ("league.anchors=[ö]", "'ö'"),
        ("agent.gamma=0.9)", "a value is a number"),
        ("agent.net_arch=[8", "a value is a number"),
        ("seed='1", "a value is a number"),
        ("größe=1", "'größe' is no key"),
        ("a b=1", "'a b' is no key"),
    ],
)
def test_the_error_of_an_unreadable_override_has_no_words_of_hydras_parser(line: str, message_part: str) -> None:
    with pytest.raises(ScenarioError) as error:
        compose("pursuit", [line])
    message = str(error.value)
    assert line in message
    assert message_part in message
    assert not any(word in message for word in ("Lexer", "viable", "mismatched", "token", "expecting"))


@pytest.mark.parametrize("text", ["größe (1)", "a(b", "#1 ~x'", "it's", "1.10", "2024_05_01", "{a"])
def test_a_text_parameter_of_a_world_is_taken_as_typed(text: str) -> None:
    assert compose("gym:FrozenLake-v1", [f"world.params.map_name={text}"]).params["map_name"] == text


@pytest.mark.parametrize("plus", ["", "+", "++"])
@pytest.mark.parametrize(
    "world, field, text, value",
    [
        ("gym:Pendulum-v1", "g", "3.5", 3.5),
        ("gym:FrozenLake-v1", "map_name", "8x8", "8x8"),
        ("gym:FrozenLake-v1", "desc", "[SFF,FFG]", ["SFF", "FFG"]),
        ("gym:CartPole-v1", "max_episode_steps", "7", 7),
        ("pettingzoo:classic/tictactoe_v3", "screen_height", "100", 100),
        ("catch", "speed", "2", 2),
    ],
)
def test_parameters_are_set_with_and_without_a_plus(plus: str, world: str, field: str, text: str, value: Any) -> None:
    assert compose(world, [f"{plus}world.params.{field}={text}"]).params[field] == value


def test_parameters_of_a_recipe_are_overridden_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.dump({"world": {"name": "gym:Pendulum-v1", "params": {"g": 2.0, "max_episode_steps": 5}}}))
    assert compose(str(file), ["world.params.g=3.0"]).params == {"g": 3.0, "max_episode_steps": 5}


@pytest.mark.parametrize("key", ["name", "device", "run_dir"])
@pytest.mark.parametrize("value", ["2024_05_01", "1.10", "1e3", "on", "0x10"])
def test_a_text_in_a_recipe_is_taken_as_it_is_written(key: str, value: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"world: catch\n{key}: {value}\n")
    assert scenario_yaml.recipe_of(str(file))[key] == value
