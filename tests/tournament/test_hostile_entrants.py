"""Tests with hostile entrants: whatever their code raises, returns or starts, they lose their own matches only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.time_limits import within

from rl_lab.adapters import make
from rl_lab.cli import main
from rl_lab.tournament import seat_rotation
from rl_lab.tournament.entrants import parse_entrants
from rl_lab.tournament.functions import FunctionAgent
from rl_lab.tournament.isolation import IsolationError, play_isolated
from rl_lab.tournament.ledger import Match, read
from rl_lab.tournament.matches import MatchEngine, MatchSetup
from rl_lab.tournament.runner import run_tournament
from rl_lab.tournament.schedule import Schedule
from rl_lab.tournament.session import Session
from rl_lab.tournament.store import create

BOTS = r"""
import ctypes
import os
import random
import signal
import subprocess
import sys
import time
import numpy as np

def first(observation, action_mask):
    return int(np.flatnonzero(action_mask)[0])

def forever(*args, **kwargs):
    while True:
        pass

def leave(*args, **kwargs):
    os._exit(9)

def raise_again(self, *args):
    raise RuntimeError("and again")

# ---- exceptions: a class each, of which an instance is raised at a move
class Mute(Exception):
    __str__ = raise_again

class MuteForever(Exception):
    __str__ = forever

class MuteNumber(Exception):
    def __str__(self):
        return 7

class MuteLeaves(Exception):
    __str__ = leave

class MuteInterrupts(Exception):
    def __str__(self):
        raise KeyboardInterrupt

class Meta(type):
    __name__ = property(raise_again)

class Nameless(Exception, metaclass=Meta):
    pass

class Endless(Exception):
    def __str__(self):
        return "x" * 10**7

class Base(BaseException):
    pass

class Text(str):
    split = raise_again
    __str__ = raise_again
    __getitem__ = raise_again

class Tricky(Exception):
    def __str__(self):
        return Text("text")

def raises(kind, *args):
    def bot(observation, action_mask):
        raise kind(*args)
    return bot

EXCEPTIONS = [Mute, MuteForever, MuteNumber, MuteLeaves, MuteInterrupts, Nameless, Endless, Base, Tricky,
              KeyboardInterrupt, GeneratorExit, SystemExit, StopIteration, MemoryError, RecursionError]
for _kind in EXCEPTIONS:
    globals()["raises_" + _kind.__name__ if _kind is not Nameless else "raises_Nameless"] = raises(_kind)

def lies(observation, action_mask):
    from rl_lab.tournament.entrant_guard import TimeLimitExceeded
    raise TimeLimitExceeded

# ---- answers: a class each, of which an instance is the answer to a move
class ArrayForever:
    __array__ = forever

class ArrayRaises:
    __array__ = raise_again

class ArrayLeaves:
    __array__ = leave

class ArrayOfWonders:
    class Wonder:
        __repr__ = raise_again
        __str__ = raise_again
        __int__ = raise_again
        __index__ = raise_again
    def __array__(self, dtype=None, copy=None):
        return np.array([ArrayOfWonders.Wonder()], object)

class ReprForever:
    __repr__ = forever
    __str__ = forever

class LengthForever:
    __len__ = forever
    def __getitem__(self, index):
        return self

class Own(np.ndarray):
    __array_finalize__ = raise_again
    shape = property(raise_again)

class AttributesRaise:
    def __getattribute__(self, name):
        raise KeyboardInterrupt

class Array(np.ndarray):
    def __array_finalize__(self, other):
        self.spoiled = True
    def __eq__(self, other):
        raise RuntimeError("compared")

ANSWERS = [ArrayForever, ArrayRaises, ArrayLeaves, ArrayOfWonders, ReprForever, LengthForever, AttributesRaise]
for _kind in ANSWERS:
    globals()["answers_" + _kind.__name__] = lambda observation, action_mask, kind=_kind: kind()

# ---- objects that are agents, which are asked about many rows
class Slow:
    def act(self, observations, *, state=None, action_mask=None, rows=None, deterministic=True):
        forever()

class Interrupts:
    def act(self, observations, **asked):
        raise KeyboardInterrupt

class AttendRaises:
    def bind(self, envs):
        raise Mute
    def act(self, observations, **asked):
        return asked["action_mask"].argmax(axis=1), None

class AttendForever(AttendRaises):
    bind = forever

class AttendLeaves(AttendRaises):
    bind = leave

class FollowInterrupts(AttendRaises):
    bind = None
    def set_row_seeds(self, keys, clock):
        raise KeyboardInterrupt

class Scribbles:
    def act(self, observations, *, state=None, action_mask=None, rows=None, deterministic=True):
        answers = action_mask.argmax(axis=1)
        rows[:] = 0
        action_mask[:] = 0
        observations[:] = 0
        return answers, None

class Spoils:
    def act(self, observations, **asked):
        return ReprForever(), None

class Unpacks:
    def act(self, observations, **asked):
        class Pair:
            __iter__ = forever
        return Pair()

# ---- processes
def forks(observation, action_mask):
    os.fork()
    return first(observation, action_mask)

def fork_bomb(observation, action_mask):
    while True:
        try:
            os.fork()
        except BaseException:
            pass

def forks_below(observation, action_mask):
    ctypes.CDLL(None).fork()
    return first(observation, action_mask)

def starts_many(observation, action_mask):
    for _ in range(100):
        subprocess.Popen(["sleep", "1000"])
    return first(observation, action_mask)

def starts_one(observation, action_mask):
    subprocess.run(["true"], check=True)
    return first(observation, action_mask)

def holds_the_pipe(observation, action_mask):
    if ctypes.CDLL(None).fork() == 0:
        time.sleep(1000)
    os._exit(3)

def crashes(observation, action_mask):
    os.kill(os.getpid(), signal.SIGSEGV)

def reads_nothing(observation, action_mask):
    return ctypes.string_at(0)

def breaks_python(observation, action_mask):
    import builtins
    builtins.len = np.flatnonzero = None
    sys.modules.clear()
    return 0

def closes_files(observation, action_mask):
    os.closerange(3, 256)
    return first(observation, action_mask)

def replaces_files(observation, action_mask):
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3, 64):
        os.dup2(null, descriptor)
    return first(observation, action_mask)

class Meddles:
    def bind(self, envs):
        self.envs = envs
    def act(self, observations, **asked):
        self.envs.actions = None
        return asked["action_mask"].argmax(axis=1), None

class Replaces:
    def act(self, observations, **asked):
        np.zeros_like = np.where = lambda *args, **kwargs: None
        return asked["action_mask"].argmax(axis=1), None

def stops(observation, action_mask):
    os.kill(os.getpid(), signal.SIGSTOP)

def stops_its_group(observation, action_mask):
    os.kill(0, signal.SIGTSTP)

def kills_its_parent(observation, action_mask):
    os.kill(os.getppid(), signal.SIGKILL)

def kills_the_group_of_its_parent(observation, action_mask):
    os.killpg(os.getpgid(os.getppid()), signal.SIGINT)

def kills_all(observation, action_mask):
    os.kill(-1, signal.SIGTERM)

def lets_a_child_kill(observation, action_mask):
    program = f"import os; os.kill({os.getppid()}, 15)"
    subprocess.run([sys.executable, "-c", program], check=True)

def ends_its_own_child(observation, action_mask):
    with subprocess.Popen(["sleep", "1000"]) as process:
        process.terminate()
    return first(observation, action_mask)

def prints(observation, action_mask):
    print("out \x1b[2J\x07")
    sys.stderr.write("err\r\n")
    os.write(1, b"\xff\n" * 9000)
    return first(observation, action_mask)

def shallow(observation, action_mask):
    sys.setrecursionlimit(60)
    return first(observation, action_mask)
"""
HARMLESS_ENTRANTS = "random", "scripted", "first=bots.py:first"


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bots.py").write_text(BOTS)
    return tmp_path


def play_tournament(*words: str, name: str = "t", workers: int = 1, **settings: Any) -> list[Match]:
    settings = {"pairs": 1, "seed": 5, "timeout": 0.3, **settings}
    return run_tournament(create(words, "tic_tac_toe", {}, path=Path(name), **settings), workers=workers).matches


def check_only_they_forfeit(names: list[str], kinds: dict[str, str]) -> list[Match]:
    """Play these bots and others with random: only the bots' own matches are forfeits, all of them, of these kinds."""
    bots = [f"{name}=bots.py:{name}" for name in names]
    matches = play_tournament(*HARMLESS_ENTRANTS, *bots, schedule="gauntlet")
    assert len(matches) == 2 * (2 + len(bots))
    matches_without_them = {
        match.id: match for match in play_tournament(*HARMLESS_ENTRANTS, name="alone", schedule="gauntlet")
    }
    assert {m.id: m for m in matches if not set(m.pairing).intersection(names)} == matches_without_them
    for match in matches:
        hostile_names = set(match.pairing).intersection(names)
        if not hostile_names:
            continue
        assert match.fault is not None and match.fault.entrant in hostile_names, match
        assert match.fault.kind in kinds.get(match.fault.entrant, "crash").split(), match.fault
        assert match.fault.reason.isprintable() and len(match.fault.reason) <= 200
    return matches


def test_exceptions_cost_the_one_who_raises_them() -> None:
    names = "Mute MuteForever MuteNumber MuteLeaves MuteInterrupts Nameless Endless Base Tricky KeyboardInterrupt"
    names += " GeneratorExit SystemExit StopIteration MemoryError RecursionError"
    slow = {"raises_MuteForever": "timeout", "lies": "timeout"}
    matches = check_only_they_forfeit([*(f"raises_{name}" for name in names.split()), "lies"], slow)
    reasons = {match.fault.entrant: match.fault.reason for match in matches if match.fault}
    assert reasons["raises_Mute"] == "Mute, whose message cannot be read"
    assert reasons["raises_KeyboardInterrupt"].startswith("KeyboardInterrupt")
    assert reasons["raises_Tricky"] == "Tricky: text"
    assert reasons["raises_MuteLeaves"] == "its process ended: exit status 9"


def test_answers_cost_the_one_who_gives_them() -> None:
    names = "ArrayForever ArrayRaises ArrayLeaves ArrayOfWonders ReprForever LengthForever AttributesRaise"
    kinds = {f"answers_{name}": "timeout" for name in ("ArrayForever", "ReprForever", "LengthForever")}
    bots = [f"answers_{name}" for name in names.split()]
    matches = check_only_they_forfeit(bots, kinds)
    assert {match.fault.entrant for match in matches if match.fault} == set(bots)


def test_agents_that_are_objects_cost_nobody_else_anything() -> None:
    names = ["Slow", "Interrupts", "AttendRaises", "AttendForever", "AttendLeaves", "FollowInterrupts", "Spoils"]
    names.append("Unpacks")
    check_only_they_forfeit(names, dict.fromkeys(("Slow", "AttendForever", "Spoils", "Unpacks"), "timeout"))
    assert not any(match.fault for match in play_tournament("random", "s=bots.py:Scribbles", name="scribbles"))


def test_processes_that_an_entrant_starts_end_with_its_match() -> None:
    names = ["forks", "fork_bomb", "starts_many", "holds_the_pipe", "crashes"]
    matches = check_only_they_forfeit(names, {"fork_bomb": "timeout crash"})
    reasons = {match.fault.entrant: match.fault.reason for match in matches if match.fault}
    assert "forked a process during a call" in reasons["forks"]
    assert reasons["starts_many"] == "its process ended: it had started more than 64 others"
    time.sleep(0.2)
    assert "1000" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout.split()


def test_an_entrant_that_closes_or_replaces_open_files_loses_its_matches() -> None:
    names = ["closes_files", "replaces_files", "raises_GeneratorExit"]  # the last is called after them
    bots = [f"{name}=bots.py:{name}" for name in names]
    matches = play_tournament(*HARMLESS_ENTRANTS, *bots)
    faults = [match.fault for match in matches if match.fault]
    assert {fault.entrant for fault in faults} == set(names)
    assert {fault.reason for fault in faults if fault.entrant.endswith("_files")} == {
        "its process ended: it had closed files that are not its own"
    }
    assert not any(match.fault for match in matches if not set(match.pairing).intersection(names))


def test_an_entrant_that_replaces_pythons_own_functions_loses_its_matches() -> None:
    matches = check_only_they_forfeit(["breaks_python"], {})
    assert {match.fault.entrant for match in matches if match.fault} == {"breaks_python"}


def engine_and_task(*words: str) -> tuple[MatchEngine, Any]:
    info = make.make("tic_tac_toe", 1).world
    entrants = tuple(parse_entrants(words, info))
    names = tuple(each.name for each in entrants)
    players_per_match = seat_rotation.players_per_match(info, len(names))
    schedule = Schedule(
        "round-robin",
        names,
        players_per_match,
        tuple(seat_rotation.seat_rotations(info, players_per_match)),
        pairs=1,
        rounds=1,
        seed=5,
    )
    return MatchEngine(MatchSetup("tic_tac_toe", {}, entrants, 5)), schedule.missing({})[0]


def test_a_mistake_of_rl_lab_after_a_call_is_no_forfeit(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    engine, task = engine_and_task("first=bots.py:first", "second=bots.py:first")
    _record_actions = Session._record_actions

    def fail_at_the_third_move(self: Session, live: Any, acting: Any) -> None:
        if self._clock.max() == 2:
            raise KeyError("a mistake of rl_lab")
        _record_actions(self, live, acting)

    monkeypatch.setattr(Session, "_record_actions", fail_at_the_third_move)
    with pytest.raises(IsolationError, match="KeyError at test_hostile_entrants.py:[0-9]+: 'a mistake of rl_lab'"):
        play_isolated(engine, task)
    assert "in fail_at_the_third_move" in capfd.readouterr().err


def test_an_error_that_an_entrant_causes_after_its_call_is_its_forfeit() -> None:
    for entrant in ("Meddles", "Replaces"):
        match = play_isolated(*engine_and_task("random", f"bots.py:{entrant}"))
        assert match.fault is not None and match.fault.entrant == f"bots.py:{entrant}"
        assert match.fault.reason.startswith("its process ended: what it did caused "), match.fault.reason


@pytest.mark.parametrize("ends_in_call", [True, False])
def test_a_segmentation_fault_outside_of_a_call_may_be_the_kernels(
    ends_in_call: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, task = engine_and_task("random", "bots.py:first")
    _record_actions = Session._record_actions

    def crash_in_call(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def crash_in_step(self: Session, live: Any, acting: Any) -> None:
        if live.any():
            os.kill(os.getpid(), signal.SIGSEGV)
        _record_actions(self, live, acting)

    if ends_in_call:
        monkeypatch.setattr(FunctionAgent, "answer", crash_in_call)
    else:
        monkeypatch.setattr(Session, "_record_actions", crash_in_step)
    handler = signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    try:
        match = play_isolated(engine, task)
    finally:
        signal.signal(signal.SIGSEGV, handler or signal.SIG_DFL)
    assert match.fault is not None
    assert ("a mistake in a kernel of the world" in match.fault.reason) is not ends_in_call, match.fault.reason


def test_a_crash_is_told_as_the_entrants_and_not_as_the_worlds(capfd: pytest.CaptureFixture[str]) -> None:
    matches = check_only_they_forfeit(["crashes", "reads_nothing"], {})
    assert {m.fault.reason for m in matches if m.fault} == {"its process ended: SIGSEGV"}
    assert "kernel" not in capfd.readouterr().err


def test_an_entrant_may_run_a_program_and_what_it_forks_below_python_ends() -> None:
    matches = play_tournament("random", "one=bots.py:starts_one", "below=bots.py:forks_below", timeout=10.0)
    assert len(matches) == 6 and not any(match.fault for match in matches)


def test_what_an_entrant_may_not_touch_is_restored() -> None:
    matches = play_tournament(*HARMLESS_ENTRANTS, "shallow=bots.py:shallow")
    innocent = [match for match in matches if "shallow" not in match.pairing]
    assert len(matches) == 12 and not any(match.fault for match in innocent)


def test_a_match_that_ended_its_process_is_played_again(capsys: pytest.CaptureFixture[str]) -> None:
    (match, _) = play_tournament("random", "leaves=bots.py:leave")
    assert main(["tournament", "replay", "t", match.id, "--code"]) == 0
    assert "a forfeit by leaves: no film" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["stops", "stops_its_group"])
def test_an_entrant_that_stops_its_process_loses_at_once(name: str) -> None:
    engine, task = engine_and_task("random", f"bots.py:{name}")
    with within(2):
        match = play_isolated(engine, task)
    assert match.fault is not None and match.fault.reason.startswith("its process ended: it was stopped by SIG")


@pytest.mark.skipif(sys.platform != "linux", reason="the filter of signals is Linux's")
@pytest.mark.parametrize(
    "name", ["kills_its_parent", "kills_the_group_of_its_parent", "kills_all", "lets_a_child_kill"]
)
def test_an_entrant_cannot_send_signals_to_the_processes_that_watch_it(name: str) -> None:
    match = play_isolated(*engine_and_task("random", f"bots.py:{name}"))
    assert match.fault is not None and match.fault.entrant == f"bots.py:{name}"
    assert "PermissionError" in match.fault.reason or "CalledProcessError" in match.fault.reason


def test_a_tournament_goes_on_where_an_entrant_stops_or_signals_processes() -> None:
    matches = play_tournament("random", "stops=bots.py:stops", "kills=bots.py:kills_all")
    assert len(matches) == 6 and all(match.fault for match in matches)
    assert {match.fault.entrant for match in matches if match.fault and "random" in match.pairing} == {"stops", "kills"}


def test_what_entrants_print_is_kept_in_a_file_without_control_characters(
    capfd: pytest.CaptureFixture[str], working_folder: Path
) -> None:
    (working_folder / "loud.py").write_text("print('imported \\x1b[31m')\nfrom bots import prints\n")
    words = ["random", "x=loud.py:prints", "child=bots.py:ends_its_own_child"]
    assert main(["tournament", "tic_tac_toe", *words, "--dir", "t", "--pairs", "1"]) == 0
    out, err = capfd.readouterr()
    assert "imported" not in out + err and "\x1b" not in out + err and "prints  t/entrants.log" in out
    text = Path("t/entrants.log").read_text()
    assert text.startswith("imported ?[31m\n") and "out ?[2J?\nerr?\n\ufffd\n" in text
    assert all(line.isprintable() for line in text.split("\n")) and len(text) <= 2**20
    assert not any(m.fault for m in read("t/matches.jsonl"))


LOADS = {
    "raise": ("raise ValueError('no')", "ValueError: no"),
    "mute": ("class M(Exception):\n    def __str__(self): 1 / 0\nraise M", "M, whose message cannot be read"),
    "exit": ("import sys; sys.exit('bye')", "SystemExit: bye"),
    "leave": ("import os; os._exit(5)", "its process ended: exit status 5"),
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "generator": ("raise GeneratorExit", "GeneratorExit"),
    "segfault": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its process ended: SIGSEGV"),
    "fork": ("import os; os.fork(); 1 / 0", "ZeroDivisionError"),
    "closed": ("import os; os.closerange(3, 99)", "its process ended"),
}


@pytest.mark.parametrize("where", ["import", "constructor"])
def test_what_cannot_be_loaded_is_refused_in_one_line_and_leaves_nothing(
    where: str, capsys: pytest.CaptureFixture[str], working_folder: Path
) -> None:
    for name, (code, message) in LOADS.items():
        body = code.replace("\n", "\n        ")
        source = f"class f:\n    def act(self):\n        pass\n    def __init__(self):\n        {body}\n"
        (working_folder / f"{where}_{name}.py").write_text(
            f"{code}\ndef f(o, l): pass\n" if where == "import" else source
        )
        assert main(["tournament", "tic_tac_toe", f"x={where}_{name}.py:f", "random"]) == 2
        output = capsys.readouterr()
        assert output.out == "" and output.err.count("\n") == 1 and message in output.err, (name, output.err)
    assert not Path("runs").exists()


def test_an_endless_import_is_given_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    program = "import sys; import rl_lab.tournament.code_loading_worker as c; c.MAX_LOAD_SECONDS = 1.0; c.main()"
    Path("endless.py").write_text("while True:\n    pass\ndef f(o, l): pass\n")
    task = b'{"path": %s, "specs": ["endless.py:f", "bots.py:first"]}' % repr(sys.path).replace("'", '"').encode()
    done = subprocess.run([sys.executable, "-c", program], input=task, capture_output=True, timeout=120, check=True)
    first, second = done.stdout.splitlines()
    assert b"cannot load endless.py:f: it takes longer than 1 s" in first and b"bots.py" in second


def test_memory_is_limited() -> None:
    program = "from rl_lab.tournament.containment import contain; contain(2**27); bytearray(2**28)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "MemoryError" in done.stderr


DRAWING = """
import random
import numpy as np

WEIGHTS = np.random.random(9) + [random.random() for _ in range(9)]

def numpy_bot(observation, action_mask):
    return int(np.random.choice(np.flatnonzero(action_mask)))

def random_bot(observation, action_mask):
    return random.choice(np.flatnonzero(action_mask).tolist())

def gauss_bot(observation, action_mask):
    return int((action_mask * (10 + np.random.normal(size=9))).argmax())

def weights_bot(observation, action_mask):
    return int((action_mask * WEIGHTS).argmax())

def set_bot(observation, action_mask):
    return int(next(iter({str(k) for k in np.flatnonzero(action_mask)})))

def torch_bot(observation, action_mask):
    import torch
    return int((torch.as_tensor(action_mask) * (1 + torch.rand(9))).argmax())

class Whole:
    def act(self, observations, *, state=None, action_mask=None, rows=None, deterministic=True):
        return (action_mask * (1 + np.random.random(action_mask.shape))).argmax(axis=1), None
"""


def test_one_seed_is_one_tournament_whatever_bots_draw_from(working_folder: Path) -> None:
    (working_folder / "drawing.py").write_text(DRAWING)
    names = "numpy_bot", "random_bot", "gauss_bot", "weights_bot", "set_bot", "torch_bot", "Whole"
    words = ["random", *(f"{name}=drawing.py:{name}" for name in names)]
    settings: dict[str, Any] = {"pairs": 2, "timeout": 20.0}
    one = play_tournament(*words, name="one", **settings)
    assert not any(match.fault for match in one)
    assert one == play_tournament(*words, name="two", workers=2, **settings)
    assert one != play_tournament(*words, name="other", **{**settings, "seed": 6})
    fewer_entrants = play_tournament(*words[:2], words[-1], name="few", **settings)  # nor on who else is there
    assert all(match in one for match in fewer_entrants)
    assert os.environ.get("PYTHONHASHSEED") == ENVIRONMENT


ENVIRONMENT = os.environ.get("PYTHONHASHSEED")
