"""Ratios are of the medians that they should be of; slopes are of lines; a race runs all alike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.race.figures import RaceFigures, Timed, Times, fastest, ratio, slope, steps, summarised
from lab.race.race import race

COUNTS = (20, 50, 200, 1_000)


def _line(constant: float, each: float) -> dict[int, float]:
    return {count: constant + each * count for count in COUNTS}


def _measured(precision: str = "int8") -> RaceFigures:
    reference: Times = {
        "tiled": _line(0, 60),
        "plain": _line(0, 50),
        "passed": _line(0, 10),
        "twin": _line(0, 8),
        "floor_fp32": _line(0, 5),
        "int8": _line(0, 4),
        "floor_int8": _line(0, 3.2),
    }
    other: Times = {"plain": _line(0, 3), "passed": _line(0, 2), "twin": _line(0, 1)}
    without: Times = {"passed": {200: 100.0, 1_000: 500.0}, "linear": {200: 150.0, 1_000: 1_000.0}}
    models = {"reference": _timed(reference), "other": _timed(other)}
    return RaceFigures(models, _timed(without), _timed(other), 1e-15, precision)  # type: ignore[arg-type]


def _timed(turns: Times) -> Timed:
    """In a block of its own each takes half, and the lower precision a quarter."""
    return Timed(
        turns,
        {name: {n: one / (4 if name == "int8" else 2) for n, one in taken.items()} for name, taken in turns.items()},
    )


def test_figures_are_of_the_medians_that_they_name() -> None:
    told = summarised(_measured())

    assert told["graph_ratio_fp32_n200"] == told["graph_ratio_fp32_n1000"] == 6.0
    assert told["graph_ratio_best_n200"] == told["graph_ratio_best_n1000"] == 15.0
    assert told["gemm_floor_ratio_best"] == 1.25
    assert (told["slope_us_fp32"], told["slope_us_best"]) == (10.0, 4.0)
    assert told["pass_ratios"] == {
        "reference": {"20": 5.0, "50": 5.0, "200": 5.0, "1000": 5.0},
        "other": {"20": 1.5, "50": 1.5, "200": 1.5, "1000": 1.5},
    }
    assert told["twin_ratios"] == {"reference": 1.25, "other": 2.0}
    assert told["rule_ratios"] == {"linear": {"200": 1.5, "1000": 2.0}}
    assert told["bundle_ratios"]["1000"] == 1.5
    assert told["microseconds"]["reference"]["int8"]["50"] == 200.0
    assert told["microseconds_in_blocks"]["reference"]["int8"]["50"] == 50.0
    assert told["in_blocks"]["graph_ratio_fp32_n200"] == 6.0
    assert told["in_blocks"]["graph_ratio_best_n1000"] == 30.0
    assert told["in_blocks"]["gemm_floor_ratio_best"] == 0.625
    assert told["microseconds_in_blocks"].keys() == {"reference", "other", "without_rule", "bundle"}
    assert (told["precision"], told["fp64_max_diff"]) == ("int8", 1e-15)


def test_where_fp32_is_best_it_stands_for_itself() -> None:
    told = summarised(_measured("fp32"))

    assert told["graph_ratio_best_n200"] == told["graph_ratio_fp32_n200"]
    assert told["slope_us_best"] == told["slope_us_fp32"]
    assert told["gemm_floor_ratio_best"] == 2.0


@given(st.floats(0, 1e4), st.floats(0.1, 100))
def test_the_slope_of_a_line_is_what_it_rises_by(constant: float, each: float) -> None:
    assert slope(_line(constant, each)) == pytest.approx(each, abs=1e-3)
    assert all(one == pytest.approx(each, abs=1e-3) for one in steps(_line(constant, each)).values())


def test_a_bend_shows_between_the_numbers_where_it_is() -> None:
    assert steps({20: 20.0, 50: 50.0, 200: 500.0}) == {"20-50": 1.0, "50-200": 3.0}


def test_a_ratio_tells_how_often_the_second_runs_in_the_time_of_the_first() -> None:
    assert ratio({"slow": {10: 30.0}, "fast": {10: 10.0}}, "slow", "fast") == {"10": 3.0}


def test_the_fastest_precision_is_that_of_the_graph_with_the_least_time_at_200() -> None:
    blocks = {"passed": {200: 2.0, 1_000: 5.0}, "int8": {200: 1.0, 1_000: 9.0}}

    assert fastest(blocks, {"fp32": "passed", "int8": "int8"}) == "int8"


def test_contestants_run_in_blocks_and_then_in_turn() -> None:
    ran: list[str] = []
    medians = race({"one": lambda: ran.append("one"), "two": lambda: ran.append("two")}, seconds=0)

    assert ran[:46] == ["one"] * 23 + ["two"] * 23
    assert ran[46:] == ["one", "two"] * 5
    assert medians.keys() == {"one", "two"}
    assert all(median >= 0 for both in medians.values() for median in both)
