"""Tests of input from outside: YAML, JSON, parameters, worlds and streams are checked, and errors are one line.

YAML and JSON from a stranger are limited in size and depth. What cannot work is refused before files are written.
Errors that nobody has foreseen are one line and a file with the traceback.
"""

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
def work_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- YAML


def expect_refusal(text: str) -> str:
    Path("x.yaml").write_text(text)
    begin = time.process_time()
    with pytest.raises(ScenarioError) as error:
        recipe_of("x.yaml")
    assert time.process_time() - begin < 3
    return str(error.value)


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
def test_yaml_with_anchors_aliases_or_tags_is_refused(text: str) -> None:
    assert "anchors, aliases or tags" in expect_refusal(text)


def test_yaml_text_that_looks_like_an_anchor_is_accepted() -> None:
    Path("x.yaml").write_text("world: catch\nexpect: {ppo: {mean_return: 1, source: 'a &b *c !d # e'}}\n# &a *b !c\n")
    assert recipe_of("x.yaml")["expect"]["ppo"]["source"] == "a &b *c !d # e"


@settings(max_examples=60, deadline=None)
@given(st.text("ab#&*!'\"{}[]:,-? \n|>%", max_size=40))
def test_no_accepted_yaml_has_anchors_or_tags(text: str) -> None:
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
    "text, message",
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
def test_yaml_is_limited_in_width_depth_and_time(text: str, message: str) -> None:
    assert message in expect_refusal(text)


@pytest.mark.parametrize("number", ["1:30", "-1:30:00", "190:20:30.15", "010", "0_7", "-007"])
def test_numbers_that_yaml_reads_in_another_base_are_refused(number: str) -> None:
    assert f"{number} is read as a number of base" in expect_refusal(f"world: catch\nbudget: {number}\n")


def test_the_number_of_inherited_files_is_limited() -> None:
    for level in range(6):
        parents = f"defaults: [{', '.join([f'level{level + 1}'] * 9)}]\n" if level < 5 else "world: catch\n"
        Path(f"level{level}.yaml").write_text(parents)
    assert "16 files at most" in expect_refusal("defaults: [level0]\nworld: catch\n")


# --- JSON


@given(st.integers())
def test_whole_accepts_the_integers_of_its_range(value: int) -> None:
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
def test_is_finite_is_true_for_the_values_that_json_can_hold(value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        assert not is_finite(value)
    else:
        assert is_finite(value)


ENV_WITH_PARAMETERS = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Point(gymnasium.Env):
    observation_space, action_space = Box(-1, 1, (1,), np.float32), Discrete(2)

    def __init__(self, gain=1.0, limit=float("inf"), free=None, *, label="x", **others):
        self.printed = gain, limit, free, label, others

    def reset(self, seed=None, options=None):
        print(*self.printed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, True, False, {}
"""


@pytest.mark.parametrize("number", ["1e999", "-1e999", "nan", "inf", "1" + "0" * 400 + ".0"])
@pytest.mark.parametrize("form", ["gain={}", "free={}", "free=[1,{}]", "free={{a:{}}}", "other={}"])
def test_an_infinite_number_is_refused_as_a_parameter(
    form: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.py").write_text(ENV_WITH_PARAMETERS)
    words = ["evaluate", "random", "world=own.py:Point", "evaluation.episodes=1"]
    assert main([*words, f"world.params.{form.format(number)}"]) == 2
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1 and "own.py:Point expects finite numbers" in err and not out


@pytest.mark.parametrize(
    "word, printed", [("limit=1e999", "1.0 inf None x {}"), ("label=1e999", "1.0 inf None 1e999 {}")]
)
def test_an_infinite_number_is_accepted_as_a_parameter_whose_default_is_infinite(
    word: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.py").write_text(ENV_WITH_PARAMETERS)
    words = ["evaluate", "random", "world=own.py:Point", "evaluation.episodes=1", "--json"]
    assert main([*words, f"world.params.{word}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert printed in lines
    assert json.loads(lines[-1], parse_constant=pytest.fail)["params"] == dict(
        [word.replace("1e999", "inf").split("=")]
    ) or (word == "label=1e999")


JSON_VALUES: list[Any] = [None, True, 1, -1, 2**70, 10**99, 1.5, float("nan"), float("inf"), "x", [], {}, [1], b"", ...]


@pytest.mark.parametrize("value", JSON_VALUES, ids=repr)
def test_each_check_accepts_its_type_and_raises_only_value_error(value: Any) -> None:
    checks: dict[Callable[[Any], Any], bool] = {
        lambda v: checked_int(v, "x"): type(value) is int and 0 <= value <= 2**62,
        lambda v: checked_number(v, "x"): (type(value) is float and abs(value) < 1e300)
        or (type(value) is int and abs(value) <= 2**53),
        lambda v: checked_type(v, "x", str): isinstance(value, str),
        lambda v: checked_type(v, "x", bool): isinstance(value, bool),
        lambda v: checked_list(v, "x", 1): value == [1],
        lambda v: checked_array(v, "x", np.zeros(3, np.float32)): False,
    }
    for check, is_accepted in checks.items():
        if is_accepted:
            assert check(value) == value
        else:
            with pytest.raises(ValueError, match="^x is"):
                check(value)


@pytest.mark.parametrize("text", ["1" + "0" * 400, '{"a": ' + "9" * 5000 + "}", "[" * 65 + "]" * 65, "[" * 10**5, "{"])
def test_json_is_limited_in_size_and_depth(text: str, work_in_tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        parse_json(text)
    assert len(str(error.value)) < 200
    with pytest.raises(ValueError, match="is not JSON"):
        parse(text)
    Path("x.json").write_text(text)
    with pytest.raises(ValueError):
        read_json(Path("x.json"), 10**6)


def test_a_json_file_that_is_too_large_or_no_file_is_refused(work_in_tmp_path: Path) -> None:
    Path("x.json").write_text("[" + " " * 100 + "]")
    with pytest.raises(ValueError, match="102 bytes; 50 at most"):
        read_json(Path("x.json"), 50)
    os.mkfifo("pipe")
    with pytest.raises(ValueError, match="not a file"):
        read_json(Path("pipe"), 50)


# --- Mistakes that are found before work begins


@pytest.mark.parametrize(
    "name", ["Hunter", "jäger", "_x", "", "a" * 41, "a.b", "x-y", "a/b", "1E", "\u0130"], ids=lambda n: n or "empty"
)
def test_a_policy_name_that_a_checkpoint_cannot_hold_is_refused(name: str) -> None:
    Path("x.yaml").write_text(json.dumps({"world": "pursuit", "policies": {name: ["predator"], "prey": ["prey"]}}))
    with pytest.raises(ScenarioError, match="polic"):
        compose("x.yaml")


@pytest.mark.parametrize(
    "words, message",
    [
        (["agent.net_arch=[1048576,1048576]"], "net_arch"),
        (["agent.n_steps=1000000000", "agent.batch_size=8"], "n_steps"),
        (["agent=dqn", "agent.buffer_size=1000000000000"], "buffer_size"),
    ],
)
def test_sizes_beyond_the_machines_memory_are_refused_before_a_folder_is_made(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "catch", "run_dir=new", *words]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and message in err and "this machine has" in err
    assert not Path("new").exists()


def test_an_output_folder_that_cannot_be_written_is_refused_before_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    for path in ("/proc/x", "file", "file/x"):
        for words in (["evaluate", "random", "world=catch"], ["watch", "random", "world=catch", "--file"]):
            assert main([*words, "--out", path]) == 2
            assert capsys.readouterr().err.startswith(f"rl-lab: --out {path}: cannot write there: ")


def catch_with(**changes: Any) -> World:
    world = world_registry.load("catch")
    arguments = {name: getattr(world, name) for name in ("State", "Params", "reset", "step", "observe", "observation")}
    return World(**{**arguments, "action": world.action, "horizon": world.horizon, **changes})


@pytest.mark.parametrize(
    "name, value",
    [
        *(("horizon", value) for value in (2**70, 2**31, -1, 1.5, True, "10", None, float("nan"), np.zeros(2))),
        *(("frames_per_second", value) for value in (0, -1, 1.5, 2**70, "30", None)),
        *(("illegal_action_reward", value) for value in (float("nan"), float("inf"), "x", None, 10**400)),
        *(("reward_threshold", value) for value in (float("nan"), "x", 10**400)),
        *(("observation", Box(-1, 1, shape)) for shape in ((0,), (3, 0))),
        *(("action", space) for space in (Discrete(2**40), Box(-1, 1, (0,)))),
    ],
    ids=lambda value: f"{value!r:.24}",
)
def test_a_world_with_an_invalid_argument_is_refused_with_its_name(name: str, value: Any) -> None:
    with pytest.raises(WorldError, match=name) as error:
        catch_with(**{name: value})
    assert "catch.py" in str(error.value) and len(str(error.value)) < 300


def test_a_world_accepts_numpy_integers_and_ints_for_floats() -> None:
    assert catch_with(horizon=np.int64(7), illegal_action_reward=-2, reward_threshold=3).horizon == 7


# --- Unexpected errors


EXITS = [
    "import sys; sys.exit(3)",
    "raise SystemExit",
    "raise GeneratorExit('x')",
    "class B(BaseException): ...\nraise B",
]


@pytest.mark.parametrize("code", EXITS)
def test_check_of_a_module_that_exits_is_one_line(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("leaver.py").write_text(code + "\n")
    assert main(["check", "leaver.py:World"]) in (1, 2)
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err and len(err.splitlines()) <= 1


@pytest.mark.parametrize("target", [":", "x:", ":x", "::"])
def test_check_of_a_target_without_a_name_is_one_line(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", target]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


class ErrorWithoutText(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("x\ny"), SystemExit(7), ErrorWithoutText(), AssertionError(), LookupError("ü")]
)
def test_an_unexpected_error_is_one_line_and_a_file_with_the_traceback(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], work_in_tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("tempfile.tempdir", str(work_in_tmp_path))
    monkeypatch.setattr("rl_lab.commands.doctor.run", fail)
    assert main(["doctor"]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and f"unexpected {type(error).__name__}" in err and "report it" in err
    (file,) = work_in_tmp_path.glob("rl-lab-error-*.txt")
    assert str(file) in err and "in fail" in file.read_text() and type(error).__name__ in file.read_text()


def test_an_os_error_is_reported_with_its_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rl_lab.commands.doctor.run", lambda _: Path("gone/x").read_text())
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == "rl-lab: gone/x: No such file or directory\n"


# --- Streams

SHELL = "{python} -m rl_lab.cli {words} {streams}"


def run_in_bash(words: str, streams: str) -> subprocess.CompletedProcess[str]:
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
def test_exit_statuses_with_closed_or_full_streams(words: str, streams: str, status: int) -> None:
    done = run_in_bash(words, streams)
    assert done.returncode == status
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    if status == 1:
        assert done.stderr.splitlines()[-1] == "rl-lab: cannot write the output: No space left on device"


def test_training_goes_on_when_the_reader_of_its_output_has_ended(work_in_tmp_path: Path) -> None:
    tiny = "budget=256 worlds=2 agent.n_steps=64 agent.batch_size=64 agent.n_epochs=1 device=cpu video=false threads=1"
    tiny += " evaluation.episodes=2 evaluation.selections=1 evaluation.selection_episodes=1 run_dir=run"
    done = run_in_bash(f"train catch {tiny}", "2>&1 | true; exit ${PIPESTATUS[0]}")
    assert done.returncode == 0 and list(work_in_tmp_path.glob("run/evaluations/256/summary.json"))


def test_a_closed_stderr_is_not_reused_for_the_next_file(work_in_tmp_path: Path) -> None:
    """Without stderr, the first file that is opened would be descriptor 2, and libraries would write into it."""
    script = """
        import os
        from rl_lab.core import standard_streams
        standard_streams.protect_standard_streams()
        with open("file", "w"):
            os.write(2, b"a library's message")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, preexec_fn=lambda: (os.close(1), os.close(2)), timeout=60)  # noqa: PLW1509
    assert done.returncode == 0 and Path("file").read_bytes() == b""


# --- Paths that have a special meaning in other programs


@pytest.mark.parametrize("name", ["-dash", "a:b", "%03d", "[x]*?", "pipe:1", "concat:a|b", "file:x", "ü é", "~", "$x"])
def test_a_video_is_written_to_paths_with_special_characters(name: str, work_in_tmp_path: Path) -> None:
    from rl_lab.rendering.video_writer import Mp4Writer

    with Mp4Writer(Path(name) / f"{name}.mp4", 16, 16) as film:
        film.write(np.zeros((16, 16, 3), np.uint8))
    assert [str(p.relative_to(work_in_tmp_path)) for p in work_in_tmp_path.rglob("*") if p.is_file()] == [
        f"{name}/{name}.mp4"
    ]
