"""What was run: the facts of each run side by side, and what of its config is not the published setting."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sod.report.differences import KINDS, NOTHING, differences, set_by
from sod.report.markup import Html, code, element, joined, merged, short, table
from sod.report.read import Run
from sod.report.untrusted import items, mapping

_SAID = frozenset({"started", "pid"})
"""Facts of a session that are told elsewhere, or say nothing later."""
MAX_VALUE = 160
MAX_KEYS = 500


def facts_table(runs: Sequence[Run]) -> Html:
    """A row for each fact, a column for each run."""
    by_run = [dict(_facts(run)) for run in runs]
    names = dict.fromkeys(name for facts in by_run for name in facts)
    rows = [[short(name), *merged([facts.get(name, Html("-")) for facts in by_run])] for name in names]
    header = ["what", *(short(run.label) for run in runs)]
    caption = "What was run, with what, on what. Of several sessions the facts of the last. One cell: the same for all."
    return table(caption, header, rows, words=range(len(header)))


def _facts(run: Run) -> Iterator[tuple[str, Html]]:
    yield "directory", code(run.path)
    yield "command", code(f"sod {run.command}")
    for name in ("method", "preset"):
        if name in run.config:
            yield name, code(run.config[name])
    for name in ("student", "teacher", "model"):
        path = mapping(run.config.get(name)).get("path")
        if path is not None:
            yield name, code(path)
    for name in ("data", "evaluation"):
        if mapping(run.config.get(name)):
            yield name, _data_name(mapping(run.config[name]))
    benchmarks = [_data_name(mapping(each)) for each in items(run.config.get("benchmarks"))[:20]]
    if benchmarks:
        yield "benchmarks", joined(benchmarks, by=", ")
    if "traces" in run.config:
        yield "traces", code(run.config["traces"])
    yield "seed", code(run.config.get("seed", ""))
    if run.updates:
        yield "updates", _updates(run)
    if run.trajectories.verdicts or run.trajectories.num_lost:
        yield "trajectories", short(_trajectories(run))
    starts = [code(session.get("started", "?"), width=40) for session in run.sessions[:8]]
    yield "started", joined(starts, by=", ") if starts else Html("-")
    for name, value in list(run.session.items())[:40]:
        if name not in _SAID:
            yield _title(name), code(_flat(value), width=MAX_VALUE)


def _title(name: str) -> str:
    return {"sod": "sod version", "git_commit": "commit", "argv": "command line"}.get(name, str(name).replace("_", " "))


def _flat(value: Any) -> str:
    """`["a", "b"] -> a b`, `{"name": "H100", "gib": 80} -> name: H100, gib: 80`."""
    if isinstance(value, list):
        return " ".join(_flat(each) for each in value[:64])
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_flat(each)}" for key, each in list(value.items())[:64])
    return "" if value is None else str(value)


def _data_name(data: Mapping[str, Any]) -> Html:
    """`aime24`, `test.jsonl`, `gpqa_diamond from my.csv`."""
    name, path = data.get("benchmark"), data.get("path")
    return joined([code(name), " from ", code(path)]) if name and path else code(name or path or "")


def _updates(run: Run) -> Html:
    planned = mapping(run.config.get("update")).get("num_updates")
    done = str(len(run.updates))
    return joined([done, " of ", code(planned, width=20)]) if planned is not None else Html(done)


def _trajectories(run: Run) -> str:
    kept = run.trajectories
    parts = f"{kept.num_graded} graded, {kept.num_correct} correct, {kept.num_failed_call} with a failed call"
    parts += f"; {kept.num_sealed} of benchmarks whose texts are not shown" if kept.num_sealed else ""
    return parts + (f"; {kept.num_lost} lost to failures of the world, not counted" if kept.num_lost else "")


# ---- the config


def difference_tables(runs: Sequence[Run]) -> list[Html]:
    """Settings that are not the published ones in some run: a table for each command, as each has its own defaults."""
    tables = []
    for command in dict.fromkeys(run.command for run in runs if run.config):
        known = [run for run in runs if run.config and run.command == command]
        tables.append(_differences(known, command))
    return tables


def _differences(runs: Sequence[Run], command: str) -> Html:
    found = [differences(run.config, command=command) for run in runs]
    keys = list(dict.fromkeys(key for each in found for key in each))
    rows = []
    for key in keys[:MAX_KEYS]:
        default = next(each[key][0] for each in found if key in each)
        here = [_here(run, each, key) for run, each in zip(runs, found, strict=True)]
        rows.append([code(key), _value(default), *merged(here)])
    header = ["setting", "published", *(short(run.label) for run in runs)]
    caption = joined(
        [
            "Settings of ",
            code(f"sod {command}"),
            " that are not the published ones, which are the defaults of its fields. A dash: as published. None: "
            "nothing is published for it, as for a path."
            if command in KINDS
            else " (nothing is published for it).",
            f" {len(keys) - MAX_KEYS} more are left out." if len(keys) > MAX_KEYS else "",
            "" if keys else " None: every setting is the published one.",
        ]
    )
    return table(caption, header, rows, words=range(len(header)))


def _here(run: Run, found: Mapping[str, tuple[Any, Any]], key: str) -> Html:
    if key not in found:
        return Html("-")
    by = set_by(run.config, key)
    value = _value(found[key][1])
    return joined([value, " ", element("span", f"({by})", class_="soft")]) if by else value


def _value(value: Any) -> Html:
    """As a config file has it, texts without quotes."""
    if value is NOTHING:
        return element("span", "none", class_="soft")
    shown = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return code("off" if value is None else shown, width=MAX_VALUE)
