"""These tests check records: the values that fields accept, and that plain Python computes as compiled code does."""

from __future__ import annotations

import pickle
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_lab.core.kernel import compile_kernel_graph, kernel
from rl_lab.core.record import (
    PlainArray,
    PlainRecord,
    Record,
    WorldState,
    bounded,
    checked_field,
    f4,
    f8,
    i1,
    i2,
    i4,
    i8,
    u1,
    u2,
    u8,
)


class Inner(Record):
    total: f8
    count: f8


class Everything(WorldState):
    x: f4
    flag: u1
    board: u1[2, 3]
    track: f4[4]
    log: Inner


class Settings(Record):
    speed: i4 = 2
    gravity: f4 = 9.8
    weights: f4[2] = (1.0, 2.0)


class More(Settings):
    extra: u1 = 3


def test_fields_become_an_aligned_dtype_in_order() -> None:
    dtype = Everything.dtype
    assert dtype.names == ("rng_key", "rng_counter", "t", "x", "flag", "board", "track", "log")
    assert dtype["x"] == np.float32 and dtype["board"] == np.dtype(("u1", (2, 3))) and dtype["log"] == Inner.dtype
    assert dtype.isalignedstruct and dtype.itemsize % 8 == 0


def test_subclasses_add_fields() -> None:
    assert More.dtype.names == ("speed", "gravity", "weights", "extra")
    assert Settings.dtype.names == ("speed", "gravity", "weights")
    assert (More()["speed"][0], More(speed=4)["speed"][0], More()["extra"][0]) == (2, 4, 3)


def test_a_record_is_one_row_of_defaults_and_values() -> None:
    row = Settings(speed=7, weights=3)
    assert row.shape == (1,) and row.dtype == Settings.dtype
    assert row["speed"][0] == 7 and row["gravity"][0] == np.float32(9.8) and row["weights"].tolist() == [[3, 3]]
    assert Settings.zeros(3).shape == (3,) and not Settings.zeros(3)["speed"].any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sped": 1}, "unknown field 'sped'; did you mean 'speed'?"),
        ({"zzzzzz": 1}, "unknown field 'zzzzzz'; there is gravity, speed, weights"),
        ({"speed": 1.5}, "speed=1.5: does not fit int32"),
        ({"speed": 2**40}, "does not fit int32"),
        ({"speed": 10**30}, "speed="),
        ({"speed": float("nan")}, "speed=nan: not finite"),
        ({"gravity": float("inf")}, "gravity=inf: not finite"),
        ({"gravity": "fast"}, "gravity='fast': expected a number"),
        ({"gravity": None}, "expected a number"),
        ({"gravity": [1, 2]}, "expected a number"),
        ({"weights": [1, 2, 3]}, r"expected numbers of shape \(2,\)"),
        ({"weights": "ab"}, "expected numbers of shape"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        Settings(**values)


def test_a_number_too_large_for_single_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="gravity=1e[+]300"):
        Settings(gravity=1e300)


@given(st.integers(-(2**70), 2**70), st.sampled_from([i1, i2, i4, i8, u1, u2, u8]))
def test_checked_integers_are_kept_or_refused(value: int, kind: Any) -> None:
    dtype = np.dtype(kind.code)
    limits = np.iinfo(dtype)
    if limits.min <= value <= limits.max:
        assert int(checked_field("n", value, dtype)) == value
    else:
        with pytest.raises(ValueError, match="n="):
            checked_field("n", value, dtype)


class Ranged(Record):
    speed: i4 = bounded(1, low=1, high=9)
    weights: f4[2] = bounded(0.7, low=0.7)
    free: f4 = -5.0


def test_values_outside_a_declared_range_are_refused_by_name() -> None:
    assert Ranged()["speed"][0] == 1 and Ranged().dtype["speed"] == np.int32
    assert Ranged(speed=9, weights=(0.7, 1e6), free=-1e9)["speed"][0] == 9
    with pytest.raises(ValueError, match="speed=10: expected 1 to 9"):
        Ranged(speed=10)
    with pytest.raises(ValueError, match="weights=0.6.*: expected 0.7 to inf"):
        Ranged(weights=(0.8, 0.6))
    rows = Ranged.zeros(3)
    with pytest.raises(ValueError, match="speed=0: expected 1 to 9"):
        Ranged.check(rows)
    rows["speed"], rows["weights"] = (1, 9, 5), 1
    Ranged.check(rows)


def test_a_field_without_a_type_of_ours_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Wrong.x: <class 'float'> is not a field type; use f4 f8"):
        type("Wrong", (Record,), {"__annotations__": {"x": float}, "__module__": __name__})


def test_plain_records_read_numbers_and_write_through() -> None:
    states = Everything.zeros(2)
    s = PlainRecord(states[1])
    s.x, s.flag, s.t = 0.1, 3, 5
    s.board[1, 2] = 9
    s.track[1:3] = 2.5
    s.log.total += 1.5
    assert type(s.x) is f4 and s.x == np.float32(0.1) and type(s.flag) is int and type(s.log.total) is float
    assert states["board"][1, 1, 2] == 9 and states["track"][1].tolist() == [0, 2.5, 2.5, 0]
    assert states["log"]["total"].tolist() == [0, 1.5] and states["t"].tolist() == [0, 5]
    assert type(s.track[1]) is f4 and type(s.board[1]) is PlainArray and type(s.board[1][2]) is int
    assert s.board.shape == (2, 3) and len(s.track) == 4 and list(s.track) == [0, 2.5, 2.5, 0]
    assert np.array_equal(np.asarray(s.board), states["board"][1])
    assert not states["x"][0]


def test_plain_records_name_the_nearest_field() -> None:
    s = PlainRecord(Everything.zeros(1)[0])
    with pytest.raises(AttributeError, match="no field 'trak'; did you mean 'track'"):
        _ = s.trak
    with pytest.raises(ValueError, match="trak"):
        s.trak = 1


def test_calling_a_field_type_casts_as_compiled_code_does() -> None:
    assert (i4(2.9), i4(-2.9), u1(7), f8(1)) == (2, -2, 7, 1.0)
    assert [type(value) for value in (i4(2.9), f8(1), f4(1))] == [int, float, f4]


def test_single_precision_numbers_survive_copies() -> None:
    assert pickle.loads(pickle.dumps(f4(0.1))) == f4(0.1)
    assert hash(f4(0.5)) == hash(np.float32(0.5)) and {f4(1): 2}[f4(1)] == 2


# Promotion. One function for every pair of types: numba compiles it for each as it compiles the authors'.


@kernel
def arithmetic(a: Any, b: Any, out: Any) -> None:
    out[0], out[1], out[2], out[3] = a + b, a - b, a * b, a / b
    out[4], out[5] = a // b, a % b
    out[6], out[7], out[8] = a < b, a <= b, a > b
    out[9], out[10], out[11] = a >= b, a == b, a != b


@kernel
def chained(a: Any, b: Any, out: Any) -> None:
    """What later operations see shows whether a result stayed single or became double."""
    third = f4(1) / f4(3)
    out[0], out[1], out[2] = (a + b) * third, (a * b) - third, (a / b) + third
    out[3], out[4] = (-a + b) * third, (abs(a) + b) * third
    out[5], out[6], out[7] = f4(a) * third + f4(b), i8(a) * third, (a if a < a + a else a * a) + b
    c = a + b
    c += b
    out[8] = c * third
    c *= b
    out[9] = c - third
    # Of one type only: compiled code unifies the types of two branches, Python keeps the one taken.
    out[10], out[11] = min(c, c * b) * third, (c if a < b else a * b) * third


SLOTS = 12
COMPILED = [
    (function, compile_kernel_graph(function, numba.njit(error_model="numpy"))) for function in (arithmetic, chained)
]


def check_equal_bits(plain_arguments: tuple[Any, Any], compiled_arguments: tuple[Any, Any]) -> None:
    for function, twin in COMPILED:
        ours, numbas = np.zeros(SLOTS), np.zeros(SLOTS)
        with np.errstate(all="ignore"):  # overflow to infinity is silent in compiled code
            function(*plain_arguments, ours)
        twin(*compiled_arguments, numbas)
        assert ours.tobytes() == numbas.tobytes(), (function.__name__, plain_arguments, ours, numbas)


# Magnitudes for which `i8(...)` is defined: compiled casts of numbers too large for an integer are not.
SMALL, LARGE = 2.0**-20, 2.0**20
singles = st.floats(SMALL, LARGE, width=32) | st.floats(-LARGE, -SMALL, width=32)
doubles = st.floats(SMALL, LARGE) | st.floats(-LARGE, -SMALL)
integers = st.integers(-(10**6), 10**6).filter(bool)


@settings(deadline=None, max_examples=300)
@given(singles, singles)
def test_f4_with_f4_stays_single(a: float, b: float) -> None:
    check_equal_bits((f4(a), f4(b)), (np.float32(a), np.float32(b)))


@settings(deadline=None, max_examples=300)
@given(singles, doubles)
def test_f4_with_float_becomes_double(a: float, b: float) -> None:
    check_equal_bits((f4(a), b), (np.float32(a), b))
    check_equal_bits((b, f4(a)), (b, np.float32(a)))


@settings(deadline=None, max_examples=300)
@given(singles, integers)
def test_f4_with_int_becomes_double(a: float, b: int) -> None:
    check_equal_bits((f4(a), b), (np.float32(a), b))
    check_equal_bits((b, f4(a)), (b, np.float32(a)))


def test_unary_plus_keeps_the_type() -> None:
    assert type(+f4(1)) is f4 and type(-f4(1)) is f4 and type(abs(f4(1))) is f4


@kernel
def powers(a: Any, b: Any, out: Any) -> None:
    out[0], out[1], out[2] = a**b, a**2, a**3


@kernel
def specials(a: Any, b: Any, out: Any) -> None:
    out[0], out[1], out[2] = a + b, -a, abs(a)
    out[3], out[4], out[5], out[6] = a < b, a <= b, a == b, a != b


POWERS, SPECIALS = (compile_kernel_graph(function, numba.njit(error_model="numpy")) for function in (powers, specials))


@settings(deadline=None, max_examples=200)
@given(st.floats(0.125, 8, width=32), st.floats(-4, 4, width=32))
def test_powers_agree_to_the_last_digits(a: float, b: float) -> None:
    """Only here may results differ, in the last place: each side asks its own libm. Kernels do better to multiply."""
    for plain_b, compiled_b in ((f4(b), np.float32(b)), (b, b)):
        ours, numbas = np.zeros(3), np.zeros(3)
        powers(f4(a), plain_b, ours)
        POWERS(np.float32(a), compiled_b, numbas)
        assert ours == pytest.approx(numbas, rel=4e-7)


@pytest.mark.parametrize("a", [0.0, -0.0, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("b", [1.5, -0.0, np.inf, np.nan])
def test_special_values_compute_alike(a: float, b: float) -> None:
    ours, numbas = np.zeros(7), np.zeros(7)
    with np.errstate(all="ignore"):
        specials(f4(a), f4(b), ours)
    SPECIALS(np.float32(a), np.float32(b), numbas)
    np.testing.assert_array_equal(ours, numbas)
    assert np.array_equal(np.signbit(ours[:2]), np.signbit(numbas[:2])) or np.isnan(a) or np.isnan(ours[0])
