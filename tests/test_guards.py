"""Rules that stop a collapsing run: when they speak, and when they keep quiet."""

from __future__ import annotations

import json
import random
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
    assert heard([{"reward": value} for value in (0.0, 0.0, -1.0, -1.0)]) == [[]] * 4


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


@pytest.mark.parametrize(
    ("right", "rang"),
    [((0, 1, 0, 0), False), ((2, 2, 0, 0), False), ((10, 9, 1, 1), True), ((10, 9, 4, 5), False)],
)
def test_a_reward_that_falls_within_chance_is_no_alarm(right: tuple[int, ...], rang: bool) -> None:
    """A fall from 1 right of 32 to none, or from 4 to none, happens to a student that has not changed."""
    alarms = heard([{"reward": count / 16, "num_trajectories": 16} for count in right])
    assert alarms[-1] == (["reward"] if rang else [])


def test_infrastructure_failures_are_fatal_from_the_first_update() -> None:
    guards = Guards(config=GuardConfig())
    (alarm,) = guards.check({**HEALTHY, "infrastructure_failures": 3})
    assert alarm == Alarm(rule="infrastructure", message=alarm.message, fatal=True)
    assert "3 of the last 33 tool calls failed through no fault of the student (limit 1.0%)" in alarm.message


def test_a_few_infrastructure_failures_are_bad_luck() -> None:
    assert heard([{"infrastructure_failures": 2}, {}]) == [[], []]
    assert heard([{"infrastructure_failures": 3, "num_calls": 1000}]) == [[]]
    assert heard([{"infrastructure_failures": 2}, {"infrastructure_failures": 1}]) == [[], ["infrastructure"]]


def many(updates: list[tuple[int, int]], **config: Any) -> list[int]:
    """The updates, counted from 1, that rang. Each is given as (calls that ran, trajectories lost)."""
    guards = Guards(config=GuardConfig(**config))
    said = [guards.check({**HEALTHY, "num_calls": ran, "infrastructure_failures": lost}) for ran, lost in updates]
    return [number for number, alarms in enumerate(said, start=1) if alarms]


@pytest.mark.parametrize(
    ("updates", "rang"),
    [
        ([(990, 10)], []),  # 1.0 %: the limit is not passed
        ([(989, 11)], [1]),
        ([(399, 1)] * 9, []),  # 0.25 % for ever
        ([(395, 5)], [1]),  # a run that has made 400 calls yet is judged by those
        ([(398, 2), (398, 2), (398, 2)], []),  # 6 of 1,200
        ([(398, 2), (393, 7)], [2]),  # 9 of 800
        ([(399, 1), (398, 2), (394, 6), (392, 8)], [4]),  # the last three: 16 of 1,200
        ([(394, 6), *[(400, 0)] * 3, (394, 6)], [1]),  # the first is long past when the last comes: 6 of 1,200
        ([(5000, 0), (5000, 0), (980, 15)], []),  # updates are taken whole: 15 of 5,995
        ([(5000, 0), (5, 0), (980, 15)], [3]),  # 15 of 1,000: the first is not needed
        ([(4, 1)] * 2, []),
        ([(4, 1)] * 3, [3]),  # 3 of 15
    ],
)
def test_the_share_of_the_last_1000_calls_decides(updates: list[tuple[int, int]], rang: list[int]) -> None:
    assert many(updates) == rang


def test_the_window_of_calls_is_a_setting() -> None:
    updates = [(97, 3), (300, 0), (100, 0), (97, 3)]
    assert many(updates, infrastructure_window=100) == [1, 4]
    assert many(updates[1:], infrastructure_window=400) == []
    assert many([(97, 3)], infrastructure_ceiling=0.03) == []


def test_calls_of_lost_trajectories_are_counted_where_they_are_known() -> None:
    """3 failures of 200 calls, and of 400 when the lost trajectories had made 203 calls."""
    update = {**HEALTHY, "num_calls": 197, "infrastructure_failures": 3}
    (alarm,) = Guards(config=GuardConfig()).check(update)
    assert alarm.message.startswith("3 of the last 200 tool calls")
    assert Guards(config=GuardConfig()).check({**update, "lost_calls": 203}) == []


def test_who_goes_on_after_the_alarm_begins_with_an_empty_window() -> None:
    """A continued run feeds its past to the guards again; an alarm that ended it must not end it twice."""
    past = [HEALTHY, {**HEALTHY, "infrastructure_failures": 9}]
    guards = Guards(config=GuardConfig())
    assert [len(guards.check(each)) for each in past] == [0, 1]
    assert [len(guards.check(each)) for each in (HEALTHY, {**HEALTHY, "infrastructure_failures": 2})] == [0, 0]
    (alarm,) = guards.check({**HEALTHY, "infrastructure_failures": 1})
    assert alarm.message.startswith("3 of the last 93 tool calls")


def test_a_continued_run_remembers_its_window() -> None:
    past, now = {**HEALTHY, "infrastructure_failures": 2}, {**HEALTHY, "infrastructure_failures": 1}
    resumed = Guards(config=GuardConfig())
    resumed.check(json.loads(json.dumps({"update": 1, **past})))  # as metrics.jsonl gives it back
    (alarm,) = resumed.check(now)
    assert alarm.message.startswith("3 of the last 63 tool calls")
    assert Guards(config=GuardConfig()).check(now) == []


def test_the_message_has_the_numbers() -> None:
    guards = Guards(config=GuardConfig(window=1))
    guards.check(HEALTHY)
    (alarm,) = guards.check({**HEALTHY, "tool_calls": 0.5})
    assert alarm.message == "tool calls per trajectory fell from 3 to 0.5, below 0.5 of the start"
    assert not alarm.fatal


# A student that unlearns to call again


def retries(*pairs: tuple[int, int], **config: Any) -> list[list[str]]:
    """Rules that spoke, by update of (turns whose call failed, those that were followed by another call)."""
    changes = [{"failed_turns": failed, "retried": again} for failed, again in pairs]
    return heard(changes, **{"retry_floor": 0.7, **config})


def test_fewer_calls_after_a_failed_one_are_called_out() -> None:
    """90 % before, 60 % after, which is below 0.7 of it: long before all tool calls fall."""
    assert retries((40, 36), (40, 36), (40, 24), (40, 24)) == [[], [], [], ["retries"]]
    assert retries((40, 36), (40, 36), (40, 36), (40, 24)) == [[]] * 4  # 75 % over the window
    assert retries((40, 36), (40, 36), (40, 24)) == [[]] * 3, "two whole windows are needed to compare"


def test_what_is_said_of_them() -> None:
    guards = Guards(config=GuardConfig(window=1, retry_floor=0.7))
    guards.check({**HEALTHY, "failed_turns": 100, "retried": 90})
    (alarm,) = guards.check({**HEALTHY, "failed_turns": 100, "retried": 60})
    assert alarm.message.startswith("calls again after a failed one fell from 90% to 60%, below 0.7 of the start: ")
    assert not alarm.fatal
    (again,) = guards.check({**HEALTHY, "failed_turns": 100, "retried": 60})
    assert again.ongoing


@pytest.mark.parametrize(
    "pairs",
    [
        ((100, 90), (100, 90), (100, 63), (100, 63)),  # 0.7 of the start is not below it
        ((24, 24), (25, 25), (100, 0), (100, 0)),  # of 49 failures before nothing is known
        ((100, 90), (100, 90), (24, 0), (25, 0)),  # nor of 49 after
        ((0, 0),) * 4,
        ((100, 0), (100, 0), (100, 0), (100, 0)),  # nothing to fall from
        ((100, 50), (100, 50), (100, 90), (100, 90)),
    ],
)
def test_where_retries_are_no_alarm(pairs: tuple[tuple[int, int], ...]) -> None:
    assert retries(*pairs) == [[]] * 4


def test_small_updates_are_added_up_until_they_say_enough() -> None:
    """Ten failed turns an update, two updates a window: five updates on either side, from the tenth update on."""
    assert retries(*[(10, 10)] * 5, *[(10, 2)] * 4) == [[]] * 9
    assert retries(*[(10, 10)] * 5, *[(10, 2)] * 5) == [*[[]] * 9, ["retries"]]
    assert retries(*[(10, 10)] * 5, *[(10, 8)] * 5) == [[]] * 10


def test_the_share_of_retries_is_a_setting() -> None:
    fallen = ((100, 90), (100, 90), (100, 0), (100, 0))
    assert retries(*fallen)[-1] == ["retries"]
    assert retries(*fallen, retry_floor=0.0)[-1] == []
    assert retries((100, 90), (100, 90), (100, 75), (100, 75), retry_floor=0.9)[-1] == ["retries"]


def test_a_fall_that_chance_can_make_is_no_alarm() -> None:
    """A constant share of .8, 60 windows of 50 failed turns: beyond three standard errors once in many runs."""
    assert retries((100, 90), (100, 90), (100, 80), (100, 80), retry_floor=0.9)[-1] == []
    rng = random.Random(0)
    false = 0
    for _ in range(200):
        shares = [sum(rng.random() < 0.8 for _ in range(10)) for _ in range(60)]
        guards = Guards(config=GuardConfig())
        heard_of = [guards.check({**HEALTHY, "failed_turns": 10, "retried": share}) for share in shares]
        false += any(alarms for alarms in heard_of)
    assert false <= 20, f"{false} of 200 runs in which nothing changed"


def test_it_is_the_share_of_all_turns_that_failed_in_a_window() -> None:
    """Not the mean of the updates' shares: 91 of 110, against 1 of 10 and 90 of 100."""
    assert retries((100, 90), (10, 9), (10, 1), (100, 90)) == [[]] * 4


def test_metrics_of_an_older_run_say_nothing_of_retries() -> None:
    """A run that goes on with a newer version has updates without these numbers."""
    assert heard([{}] * 2 + [{"failed_turns": 100, "retried": 0}] * 2) == [[]] * 4
