"""Rules that stop a collapsing run: when they speak, and when they keep quiet."""

from __future__ import annotations

from typing import Any

import pytest

from sod.config import GuardConfig
from sod.guards import Alarm, Guards

HEALTHY = {"tool_calls": 3.0, "reward": 0.4, "num_calls": 30, "failed_calls": 3, "infrastructure_failures": 0}


def heard(changes: list[dict[str, float]], **config: Any) -> list[list[str]]:
    """Rules that spoke, by update: each change is made to a healthy update."""
    guards = Guards(config=GuardConfig(window=2, **config))
    return [[alarm.rule for alarm in guards.check({**HEALTHY, **change})] for change in changes]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"tool_calls": 1.0}, "tool_calls"),
        ({"reward": 0.1}, "reward"),
        ({"failed_calls": 20}, "failed_calls"),
    ],
)
def test_a_window_that_fell_is_called_out(change: dict[str, float], rule: str) -> None:
    alarms = heard([{}, {}, {}, change, change])
    assert alarms == [[], [], [], [], [rule]] or alarms == [[], [], [], [rule], [rule]]
    assert heard([{}, {}, change]) == [[], [], []], "two whole windows are needed to compare"


@pytest.mark.parametrize(
    ("change", "off"),
    [
        ({"tool_calls": 0.0}, {"tool_call_floor": 0.0}),
        ({"reward": 0.0}, {"reward_floor": 0.0}),
        ({"failed_calls": 30}, {"failed_call_ceiling": 1.0}),
        ({"infrastructure_failures": 30}, {"infrastructure_ceiling": 1.0}),
    ],
)
def test_each_rule_can_be_turned_off(change: dict[str, float], off: dict[str, float]) -> None:
    assert heard([{}, {}, change, change], **off) == [[], [], [], []]


def test_a_run_that_began_badly_has_nothing_to_fall_from() -> None:
    assert heard([{"tool_calls": 0.0, "reward": 0.0, "failed_calls": 20}] * 6) == [[]] * 6


def test_an_alarm_that_goes_on_is_marked() -> None:
    guards = Guards(config=GuardConfig(window=2))
    low = {**HEALTHY, "tool_calls": 0.5}
    said = [[alarm.ongoing for alarm in guards.check(each)] for each in (HEALTHY, HEALTHY, low, low, low)]
    assert said == [[], [], [], [False], [True]]
    for _ in range(2):
        assert [alarm.rule for alarm in guards.check(HEALTHY)][:1] in ([], ["tool_calls"])
    assert [[alarm.ongoing for alarm in guards.check(each)] for each in (low, low)][-1] == [False], "it began anew"


def test_small_ups_and_downs_are_no_alarm() -> None:
    assert heard([{}, {}, {"tool_calls": 2.0, "reward": 0.25}, {"tool_calls": 1.6}, {"reward": 0.21}]) == [[]] * 5


def test_infrastructure_failures_are_fatal_from_the_first_update() -> None:
    guards = Guards(config=GuardConfig())
    (alarm,) = guards.check({**HEALTHY, "infrastructure_failures": 3})
    assert alarm == Alarm(rule="infrastructure", message=alarm.message, fatal=True)
    assert "3 of 33 tool calls failed through no fault of the student (limit 1.0%)" in alarm.message


def test_a_few_infrastructure_failures_are_bad_luck() -> None:
    assert heard([{"infrastructure_failures": 2}, {}]) == [[], []]
    assert heard([{"infrastructure_failures": 3, "num_calls": 1000}]) == [[]]
    assert heard([{"infrastructure_failures": 2}, {"infrastructure_failures": 1}]) == [[], ["infrastructure"]]


def test_the_message_has_the_numbers() -> None:
    guards = Guards(config=GuardConfig(window=1))
    guards.check(HEALTHY)
    (alarm,) = guards.check({**HEALTHY, "tool_calls": 0.5})
    assert alarm.message == "tool calls per trajectory fell from 3 to 0.5, below 0.5 of the start"
    assert not alarm.fatal
