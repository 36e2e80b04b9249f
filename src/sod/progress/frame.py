"""A run's state as lines that fit a terminal: `frame(state, width=80, height=24)`.

Every line knows how much it matters. Where there is no room the least important ones are left out; warnings are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from sod.progress.gauges import Gauge
from sod.progress.lines import said
from sod.progress.state import RunState
from sod.report.untrusted import line, mapping, number

BLOCKS = " ▁▂▃▄▅▆▇█"
LABEL, VALUE, CHANGE = 13, 9, 10
"""Columns of a row's parts; its history has what is left."""
MAX_SPARK = 40
MAX_MESSAGE_LINES = 3
PHASES = {
    "rollout_s": "rollout",
    "learn_s": "learn",
    "straggler_s": "wait",
    "weights_s": "weights",
    "record_s": "record",
}
SHADES = "█▓▒░▪·"
COLOURS = ("cyan", "magenta", "yellow", "blue", "green", "white")
"""Of the phases, beside their shades: without colours the shades still tell them apart."""
STATUSES = ("error", "crashed", "timeout", "memory_limit", "disk_limit", "output_limit", "malformed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of the frame. Of rows with a larger `rank` fewer are shown."""

    text: Text
    rank: int


def frame(state: RunState, *, width: int, height: int) -> Text:
    """All that fits, one line below the other; nothing is longer than `width` or stands beyond `height`."""
    rows = [*_head(state, width), *_gauges(state, width), *_costs(state, width)]
    told = [] if state.ended else _messages(state, width, max(MAX_MESSAGE_LINES, height // 3))
    rows += [Row(text=Text(""), rank=11) for _ in told[:1]] + [Row(text=text, rank=1) for text in told]
    kept = sorted(range(len(rows)), key=lambda place: (rows[place].rank, place))[: max(1, height)]
    texts = [rows[place].text for place in sorted(kept)]
    for text in texts:
        text.no_wrap = True
        text.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True, end="").join(texts)


# ---- the run


def _head(state: RunState, width: int) -> Iterator[Row]:
    title = Text(line(state.plan.title), style="bold")
    if state.layers:
        level, unsafe = line(state.layers[0]), state.layers[0] == "unsafe"
        title.append(f"  sandbox {level}", style="bold red" if unsafe else "dim")
    yield Row(text=title, rank=3)
    yield Row(text=_advance(state, width), rank=0)
    since = f"{'to the start':>{_room(width) + CHANGE + 3}}" if any(map(state.change, state.plan.gauges)) else ""
    yield Row(text=Text(f"{'':{LABEL + 1 + VALUE}}{since}", style="dim"), rank=9)


def _advance(state: RunState, width: int) -> Text:
    """`update 31 of 120  ████████░░░░░░░░  26%  0:12:10  left 0:34:56`."""
    total = state.total
    start = f"{state.plan.unit} {state.done}" + (f" of {total}" if total else "")
    left_s = state.left_s
    end = _clock(state.elapsed_s) + ("" if left_s is None else f"  left {_clock(left_s)}")
    if not total:
        return Text.assemble((start, "bold"), f"  {end}")
    share = min(1.0, state.done / total)
    room = max(4, min(MAX_SPARK, width - len(start) - len(end) - 12))
    full = round(share * room)
    bar = Text.assemble(("█" * full, "green"), ("░" * (room - full), "dim"))
    return Text.assemble((start, "bold"), "  ", bar, f"  {share:.0%}  {end}")


def _clock(seconds: float) -> str:
    """`4330 -> "1:12:10"`, with days from 100 hours on: `"4d 05:00"`."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour // 24}d {hour % 24:02}:{minute:02}" if hour >= 100 else f"{hour}:{minute:02}:{second:02}"


# ---- its numbers


def _gauges(state: RunState, width: int) -> Iterator[Row]:
    for place, gauge in enumerate(state.plan.gauges):
        history = state.histories[gauge.label]
        if all(value is None for value in history):
            continue
        yield Row(text=_gauge(state, gauge, width), rank=2 if place == 0 else 4 if place < 6 else 5)
        if gauge.label == "  failed" and (statuses := _statuses(state.latest)):
            yield Row(text=Text(f"{'':{LABEL}} {statuses}", style="dim"), rank=6)


def _gauge(state: RunState, gauge: Gauge, width: int) -> Text:
    history = state.histories[gauge.label]
    value = "-" if history[-1] is None else gauge.shown(history[-1])
    room = _room(width)
    return Text.assemble(
        (f"{gauge.label:<{LABEL}} ", ""),
        (f"{value:>{VALUE}}", "bold"),
        (f"  {spark(history, room):<{room}}", "cyan"),
        (f" {state.change(gauge):>{CHANGE}}", "dim"),
    )


def _room(width: int) -> int:
    """Columns of a gauge's history."""
    return max(4, min(MAX_SPARK, width - LABEL - VALUE - CHANGE - 4))


def spark(history: Sequence[float | None], width: int) -> str:
    """A history as blocks, the latest at the right, several values a block when there are many; a gap is a space.

    `[0, 1, 2, 3], 4 -> "▁▃▆█"`; values that do not differ stand in the middle.
    """
    cells = [_mean(history[start:end]) for start, end in _parts(len(history), width)]
    known = [value for value in cells if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    scale = (len(BLOCKS) - 2) / (high - low) if high > low else 0.0
    flat = len(BLOCKS) // 2
    return "".join(
        " " if value is None else BLOCKS[1 + round((value - low) * scale)] if scale else BLOCKS[flat] for value in cells
    )


def _parts(count: int, width: int) -> Iterator[tuple[int, int]]:
    """`count` values cut into at most `width` runs of about the same length: `5, 2 -> (0, 2), (2, 5)`."""
    parts = min(count, width)
    for part in range(parts):
        yield part * count // parts, (part + 1) * count // parts


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _statuses(values: Mapping[str, Any]) -> str:
    """Of the failed calls, the most frequent first, as shares of all calls: `"error 20.6%  malformed 0.9%"`."""
    shares = {name: number(values.get(f"{name}_share")) or 0.0 for name in STATUSES}
    failing = sorted((name for name in STATUSES if shares[name] > 0), key=lambda name: -shares[name])
    return "  ".join(f"{name.replace('_limit', '')} {shares[name]:.1%}" for name in failing)


# ---- what it costs, what it reached


def _costs(state: RunState, width: int) -> Iterator[Row]:
    yield Row(text=Text(""), rank=10)
    seconds = {name: number(state.latest.get(key)) or 0.0 for key, name in PHASES.items()}
    total_s = number(state.latest.get("total_s"))
    if total_s and any(seconds.values()):
        yield from _phases(seconds, total_s, width)
    if state.peak_gib:
        yield Row(text=_memory(state), rank=8)
    if state.evaluation:
        yield Row(text=_evaluation(state), rank=6)


def _phases(seconds: Mapping[str, float], total_s: float, width: int) -> Iterator[Row]:
    """The last update's seconds as a bar of shades, and what each shade is."""
    parts = [(name, value / total_s) for name, value in seconds.items() if value >= 0.005 * total_s]
    room = max(4, min(MAX_SPARK, width - LABEL - VALUE - 3))
    bar, legend, drawn, share_drawn = Text(), Text(" " * (LABEL + 1)), 0, 0.0
    for place, (name, share) in enumerate(parts):
        share_drawn += share
        length = max(0, min(room, round(share_drawn * room)) - drawn)
        drawn += length
        bar.append(SHADES[place] * length, style=COLOURS[place])
        legend.append(SHADES[place], style=COLOURS[place]).append(f" {name} {share:.0%}  ", style="dim")
    taken = f"{total_s:.1f} s" if total_s < 1000 else f"{total_s / 60:.0f} min"
    yield Row(text=Text.assemble(f"{'last update':<{LABEL}} ", (f"{taken:>{VALUE}}", "bold"), "  ", bar), rank=7)
    yield Row(text=legend, rank=8)


def _memory(state: RunState) -> Text:
    """`memory  host 3.2 GiB (peak 3.4)  gpu 61.0 GiB (peak 63.2)`."""
    now = mapping(state.latest.get("memory"))
    parts = [
        f"{line(place, width=20).removesuffix('_gib')} {number(now.get(place)) or 0.0:.1f} GiB (peak {peak:.1f})"
        for place, peak in state.peak_gib.items()
    ]
    return Text(f"{'memory':<{LABEL}} {'  '.join(parts)}")


def _evaluation(state: RunState) -> Text:
    """`evaluation  after update 20: avg@4 31.2% [28.0, 34.4]  +3.1 pt`, the change against the first one."""
    now, first = state.evaluation, state.first_evaluation
    mean, low, high = (number(now.get(key)) for key in ("avg@k", "avg@k_low", "avg@k_high"))
    start = f"{'evaluation':<{LABEL}} after update {now.get('update')}: "
    if mean is None:
        return Text(f"{start}no problem could be graded")
    text = Text.assemble(start, (f"avg@{now.get('k')} {mean:.1%}", "bold"))
    if low is not None and high is not None:
        text.append(f" [{100 * low:.1f}, {100 * high:.1f}]")
    before = number(first.get("avg@k"))
    if before is not None and first is not now:
        text.append(f"  {100 * (mean - before):+.1f} pt", style="dim")
    return text


# ---- what it warned of


def _messages(state: RunState, width: int, room: int) -> list[Text]:
    """Alarms, then warnings, the latest first, in at most `room` lines; the last says how many found no place."""
    latest_first = list(reversed(state.messages.items()))
    told = sorted(latest_first, key=lambda each: each[0][0] != "alarm")
    lines: list[Text] = []
    for place, ((event, message), updates) in enumerate(told):
        more = len(told) - place
        wrapped = _wrapped(message_line(event, message, updates), width)
        if len(lines) + len(wrapped) + (more > 1) > room and lines:
            return [*lines, Text(f"and {more} more, all printed at the end", style="dim")]
        lines += wrapped[: max(1, room - (more > 1))]
    return lines


def message_line(event: str, message: str, updates: Sequence[int | None]) -> Text:
    """`ALARM at update 31: ...`, `Warning (3 times): ...`."""
    times = f" ({len(updates)} times)" if len(updates) > 1 else ""
    if event != "alarm":
        return Text.assemble(("Warning", "yellow"), f"{times}: {said(message)}")
    return Text.assemble(("ALARM", "bold red"), f" at update {updates[-1]}{times}: {said(message)}")


_MEASURE = Console(width=80)


def _wrapped(text: Text, width: int) -> list[Text]:
    """A message on up to three lines; the full one is printed at the end."""
    lines = list(text.wrap(_MEASURE, width))
    if len(lines) > MAX_MESSAGE_LINES:
        lines[MAX_MESSAGE_LINES - 1].rstrip()
        lines[MAX_MESSAGE_LINES - 1].append("…")
    return lines[:MAX_MESSAGE_LINES]
