"""What comes from outside is bounded and checked before it is used; an error that was not foreseen is one line, too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_lab.cli import main
from rl_lab.core.untrusted import (
    checked_array,
    checked_int,
    checked_list,
    checked_number,
    checked_type,
    is_finite,
    parse_json,
    read_json,
)
from rl_lab.core.world import World, WorldError
from rl_lab.engine import world_registry
from rl_lab.experiments.compose import compose
from rl_lab.experiments.scenario_yaml import ScenarioError, recipe_of
from rl_lab.tournament.ledger import parse


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# YAML


def expect_refusal(text: str) -> str:
    Path("x.yaml").write_text(text)
    begin = time.process_time()
    with pytest.raises(ScenarioError) as caught:
        recipe_of("x.yaml")
    assert time.process_time() - begin < 3
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '"#": &a [x, x]\nworld: catch\n',
        "'#': &a x\nb: *a\n",
        "? # a comment\n  &a x\n: y\n",
        "world:\n  &a\n  catch\n",
        '{"a b#": &u [x], world: catch}\n',
        "x: [1,&a 2]\n",
        "x: {? &a 2}\n",
        "world: !!str catch\n",
        "world: ! catch\n",
        "world: !!python/name:os.system\n",
        "%TAG !e! tag:example.org,2000:\n---\nworld: !e!x catch\n",
    ],
)
def test_anchors_aliases_and_tags_are_refused_wherever_they_stand(text: str) -> None:
    assert "anchors, aliases or tags" in expect_refusal(text)


def test_a_text_that_only_looks_like_them_is_data() -> None:
    Path("x.yaml").write_text("world: catch\nexpect: {ppo: {mean_return: 1, source: 'a &b *c !d # e'}}\n# &a *b !c\n")
    assert recipe_of("x.yaml")["expect"]["ppo"]["source"] == "a &b *c !d # e"


@settings(max_examples=60, deadline=None)
@given(st.text("ab#&*!'\"{}[]:,-? \n|>%", max_size=40))
def test_no_text_gets_an_alias_through(text: str) -> None:
    import yaml

    Path("x.yaml").write_text(text)
    try:
        events = list(yaml.parse(text, yaml.SafeLoader))
    except yaml.YAMLError:
        events = []
    try:
        recipe_of("x.yaml")
    except ScenarioError:
        return
    assert not any(getattr(event, "anchor", None) or getattr(event, "tag", None) for event in events)


@pytest.mark.parametrize(
    "text, said",
    [
        ("x: [" + "1," * 3000 + "1]\n", "keys and values"),
        ("".join(f"k{n}: 1\n" for n in range(3000)), "keys and values"),
        ("x: " + "[" * 40 + "]" * 40 + "\n", "levels deep"),
        ("{" * 30_000, "levels deep"),
        ("- " * 20_000, "levels deep"),
        ("x: " + "9" * 5000 + "\n", "a number of 5,000 characters"),
        ("x: " + "1:" * 2000 + "1\n", "a number of 4,001 characters"),
        ("x: 0x" + "f" * 2000 + "\n", "a number of 2,002 characters"),
        ("x: '" + "a" * 60_000 + "'\n", "characters is refused"),
        ("defaults: [" + ", ".join(["cartpole"] * 1900) + "]\n", "1,900 entries"),
    ],
    ids=lambda text: text[:12].strip(),
)
def test_yaml_is_bounded_in_width_depth_and_time(text: str, said: str) -> None:
    assert said in expect_refusal(text)


@pytest.mark.parametrize("number", ["1:30", "-1:30:00", "190:20:30.15", "010", "0_7", "-007"])
def test_numbers_that_yaml_reads_in_another_base_are_refused(number: str) -> None:
    assert f"{number} is read as a number of base" in expect_refusal(f"world: catch\nbudget: {number}\n")


def test_defaults_that_multiply_are_bounded() -> None:
    for level in range(6):
        parents = f"defaults: [{', '.join([f'level{level + 1}'] * 9)}]\n" if level < 5 else "world: catch\n"
        Path(f"level{level}.yaml").write_text(parents)
    assert "16 files at most" in expect_refusal("defaults: [level0]\nworld: catch\n")


# JSON


@given(st.integers())
def test_whole_numbers_are_those_of_their_range(value: int) -> None:
    if 0 <= value <= 2**62:
        assert checked_int(value, "x") == value
    else:
        with pytest.raises(ValueError, match="^x is"):
            checked_int(value, "x")


@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    )
)
def test_finite_values_are_those_that_json_has(value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        assert not is_finite(value)
    else:
        assert is_finite(value)


INFINITE = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Point(gymnasium.Env):
    observation_space, action_space = Box(-1, 1, (1,), np.float32), Discrete(2)

    def __init__(self, gain=1.0, limit=float("inf"), free=None, *, label="x", **others):
        self.shown = gain, limit, free, label, others

    def reset(self, seed=None, options=None):
        print(*self.shown)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, True, False, {}
"""


@pytest.mark.parametrize("number", ["1e999", "-1e999", "nan", "inf", "1" + "0" * 400 + ".0"])
@pytest.mark.parametrize("form", ["gain={}", "free={}", "free=[1,{}]", "free={{a:{}}}", "other={}"])
def test_a_number_beyond_all_bounds_is_no_parameter_of_an_environment(
    form: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.py").write_text(INFINITE)
    words = ["evaluate", "random", "world=own.py:Point", "evaluation.episodes=1"]
    assert main([*words, f"world.params.{form.format(number)}"]) == 2
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1 and "own.py:Point expects finite numbers" in err and not out


@pytest.mark.parametrize(
    "word, shown", [("limit=1e999", "1.0 inf None x {}"), ("label=1e999", "1.0 inf None 1e999 {}")]
)
def test_a_number_without_bound_is_a_parameter_where_the_default_is_one(
    word: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.py").write_text(INFINITE)
    words = ["evaluate", "random", "world=own.py:Point", "evaluation.episodes=1", "--json"]
    assert main([*words, f"world.params.{word}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert shown in lines
    assert json.loads(lines[-1], parse_constant=pytest.fail)["params"] == dict(
        [word.replace("1e999", "inf").split("=")]
    ) or (word == "label=1e999")


JSON_VALUES: list[Any] = [None, True, 1, -1, 2**70, 10**99, 1.5, float("nan"), float("inf"), "x", [], {}, [1], b"", ...]


@pytest.mark.parametrize("value", JSON_VALUES, ids=repr)
def test_each_check_takes_its_own_kind_and_raises_nothing_else(value: Any) -> None:
    checks: dict[Callable[[Any], Any], bool] = {
        lambda v: checked_int(v, "x"): type(value) is int and 0 <= value <= 2**62,
        lambda v: checked_number(v, "x"): (type(value) is float and abs(value) < 1e300)
        or (type(value) is int and abs(value) <= 2**53),
        lambda v: checked_type(v, "x", str): isinstance(value, str),
        lambda v: checked_type(v, "x", bool): isinstance(value, bool),
        lambda v: checked_list(v, "x", 1): value == [1],
        lambda v: checked_array(v, "x", np.zeros(3, np.float32)): False,
    }
    for check, right in checks.items():
        if right:
            assert check(value) == value
        else:
            with pytest.raises(ValueError, match="^x is"):
                check(value)


@pytest.mark.parametrize("text", ["1" + "0" * 400, '{"a": ' + "9" * 5000 + "}", "[" * 65 + "]" * 65, "[" * 10**5, "{"])
def test_json_is_bounded(text: str, there: Path) -> None:
    with pytest.raises(ValueError) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 200
    with pytest.raises(ValueError, match="is not JSON"):
        parse(text)
    Path("x.json").write_text(text)
    with pytest.raises(ValueError):
        read_json(Path("x.json"), 10**6)


def test_json_of_another_size_or_kind_of_file_is_refused(there: Path) -> None:
    Path("x.json").write_text("[" + " " * 100 + "]")
    with pytest.raises(ValueError, match="102 bytes; 50 at most"):
        read_json(Path("x.json"), 50)
    os.mkfifo("pipe")
    with pytest.raises(ValueError, match="not a file"):
        read_json(Path("pipe"), 50)


# What is accepted early


@pytest.mark.parametrize(
    "name", ["Hunter", "jäger", "_x", "", "a" * 41, "a.b", "x-y", "a/b", "1E", "\u0130"], ids=lambda n: n or "empty"
)
def test_a_policy_whose_name_no_checkpoint_could_hold_is_refused_at_once(name: str) -> None:
    Path("x.yaml").write_text(json.dumps({"world": "pursuit", "policies": {name: ["predator"], "prey": ["prey"]}}))
    with pytest.raises(ScenarioError, match="polic"):
        compose("x.yaml")


@pytest.mark.parametrize(
    "words, said",
    [
        (["agent.net_arch=[1048576,1048576]"], "net_arch"),
        (["agent.n_steps=1000000000", "agent.batch_size=8"], "n_steps"),
        (["agent=dqn", "agent.buffer_size=1000000000000"], "buffer_size"),
    ],
)
def test_what_does_not_fit_the_machine_is_refused_before_a_folder_is_made(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "catch", "run_dir=new", *words]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and said in err and "this machine has" in err
    assert not Path("new").exists()


def test_a_place_that_cannot_be_written_is_refused_before_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    for place in ("/proc/x", "file", "file/x"):
        for words in (["evaluate", "random", "world=catch"], ["watch", "random", "world=catch", "--file"]):
            assert main([*words, "--out", place]) == 2
            assert capsys.readouterr().err.startswith(f"rl-lab: --out {place}: cannot write there: ")


def remade(**changes: Any) -> World:
    world = world_registry.load("catch")
    kept = {name: getattr(world, name) for name in ("State", "Params", "reset", "step", "observe", "observation")}
    return World(**{**kept, "action": world.action, "horizon": world.horizon, **changes})


@pytest.mark.parametrize(
    "name, value",
    [
        *(("horizon", value) for value in (2**70, 2**31, -1, 1.5, True, "10", None, float("nan"), np.zeros(2))),
        *(("frames_per_second", value) for value in (0, -1, 1.5, 2**70, "30", None)),
        *(("illegal_action_reward", value) for value in (float("nan"), float("inf"), "x", None, 10**400)),
        *(("solved", value) for value in (float("nan"), "x", 10**400)),
        *(("observation", Box(-1, 1, shape)) for shape in ((0,), (3, 0))),
        *(("action", space) for space in (Discrete(2**40), Box(-1, 1, (0,)))),
    ],
    ids=lambda value: f"{value!r:.24}",
)
def test_a_world_says_which_of_its_numbers_is_none(name: str, value: Any) -> None:
    with pytest.raises(WorldError, match=name) as caught:
        remade(**{name: value})
    assert "catch.py" in str(caught.value) and len(str(caught.value)) < 300


def test_a_worlds_usual_numbers_are_taken() -> None:
    assert remade(horizon=np.int64(7), illegal_action_reward=-2, solved=3).horizon == 7


# The last net


EXITS = [
    "import sys; sys.exit(3)",
    "raise SystemExit",
    "raise GeneratorExit('x')",
    "class B(BaseException): ...\nraise B",
]


@pytest.mark.parametrize("code", EXITS)
def test_a_module_that_ends_the_program_is_one_line(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("leaver.py").write_text(code + "\n")
    assert main(["check", "leaver.py:World"]) in (1, 2)
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err and len(err.splitlines()) <= 1


@pytest.mark.parametrize("target", [":", "x:", ":x", "::"])
def test_a_target_without_a_name_is_one_line(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", target]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


class Silent(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("x\ny"), SystemExit(7), Silent(), AssertionError(), LookupError("ü")]
)
def test_what_nobody_foresaw_is_one_line_and_a_file(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], there: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("tempfile.tempdir", str(there))
    monkeypatch.setattr("rl_lab.commands.doctor.run", fail)
    assert main(["doctor"]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and f"unexpected {type(error).__name__}" in err and "report it" in err
    (file,) = there.glob("rl-lab-error-*.txt")
    assert str(file) in err and "in fail" in file.read_text() and type(error).__name__ in file.read_text()


def test_a_system_error_names_its_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("rl_lab.commands.doctor.run", lambda _: Path("gone/x").read_text())
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == "rl-lab: gone/x: No such file or directory\n"


# Streams

SHELL = "{python} -m rl_lab.cli {words} {streams}"


def shell(words: str, streams: str) -> subprocess.CompletedProcess[str]:
    line = SHELL.format(python=sys.executable, words=words, streams=streams)
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "words, streams, status",
    [
        ("list agents", "2>&-", 0),
        ("list agents", ">&-", 0),
        ("list agents", ">&- 2>&- <&-", 0),
        ("list agents", "2>/dev/full", 0),
        ("list agents", ">/dev/full", 1),
        ("--help", ">/dev/full", 1),
        ("train --help", ">/dev/full", 1),
        ("--version", ">/dev/full", 1),
        ("--version", ">&-", 0),
        ("train nosuch", "2>&-", 2),
        ("train nosuch", "2>/dev/full", 2),
        ("list agents", "| true; exit ${PIPESTATUS[0]}", 0),
        ("train nosuch", "2> >(true); sleep 0.2", 0),
    ],
)
def test_streams_that_are_closed_full_or_read_by_nobody(words: str, streams: str, status: int) -> None:
    done = shell(words, streams)
    assert done.returncode == status
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    if status == 1:
        assert done.stderr.splitlines()[-1] == "rl-lab: cannot write the output: No space left on device"


def test_work_goes_on_when_nobody_reads_its_progress(there: Path) -> None:
    tiny = "budget=256 worlds=2 agent.n_steps=64 agent.batch_size=64 agent.n_epochs=1 device=cpu video=false threads=1"
    tiny += " evaluation.episodes=2 evaluation.selections=1 evaluation.selection_episodes=1 run_dir=run"
    done = shell(f"train catch {tiny}", "2>&1 | true; exit ${PIPESTATUS[0]}")
    assert done.returncode == 0 and list(there.glob("run/evaluations/256/summary.json"))


def test_a_closed_stream_is_not_the_next_file(there: Path) -> None:
    """Without stderr, the first file that is opened would be descriptor 2, and libraries would write into it."""
    script = """
        import os
        from rl_lab.core import streams
        streams.protect_standard_streams()
        with open("file", "w"):
            os.write(2, b"a library's message")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, preexec_fn=lambda: (os.close(1), os.close(2)), timeout=60)  # noqa: PLW1509
    assert done.returncode == 0 and Path("file").read_bytes() == b""


# Paths that mean something else to other programs


@pytest.mark.parametrize("name", ["-dash", "a:b", "%03d", "[x]*?", "pipe:1", "concat:a|b", "file:x", "ü é", "~", "$x"])
def test_a_film_is_where_its_path_says(name: str, there: Path) -> None:
    from rl_lab.rendering.video_writer import Mp4Writer

    with Mp4Writer(Path(name) / f"{name}.mp4", 16, 16) as film:
        film.write(np.zeros((16, 16, 3), np.uint8))
    assert [str(p.relative_to(there)) for p in there.rglob("*") if p.is_file()] == [f"{name}/{name}.mp4"]
