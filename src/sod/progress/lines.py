"""Events as plain lines: for files, pipes, `--plain`, and what the live view says above and after its frame.

update   12/60  reward 0.354  calls 3.65  failed 21%  entropy 0.063  grad 1.519  1.4 s
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.text import Text

from sod.report.untrusted import line

if TYPE_CHECKING:
    from rich.console import Console

MAX_MESSAGE = 2000
"""Characters of a message that are shown: it may quote a row of data or a tool's output."""


class PlainLines:
    """A listener that prints every event as a line, at once."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(self, event: str, values: Mapping[str, Any]) -> None:
        """Print it; the terminal wraps what is too long, and nothing in it is markup."""
        text = line_of(event, values)
        # A full disk or a reader that went away is no reason to stop; rich makes a SystemExit of the second.
        with suppress(OSError, SystemExit):
            self.console.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)


def line_of(event: str, values: Mapping[str, Any]) -> str | Text:
    """One event in words. Texts in it are made harmless; an event that nobody knows shows its values."""
    return _LINES.get(event, _plain)(values)


def said(text: object) -> str:
    """A message on one line, without what would move the cursor or colour the screen."""
    return line(text, width=MAX_MESSAGE)


def _plain(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{said(key)} {said(value)}" for key, value in values.items())


def _update_line(values: Mapping[str, Any]) -> str:
    parts = [
        f"update {values['update']:>4}/{values['num_updates']}",
        f"reward {values['reward']:.3f}",
        f"calls {values['tool_calls']:.2f}",
        f"failed {values['failed_calls'] / max(1, values['num_calls']):.0%}",
        f"entropy {values['entropy']:.3f}",
    ]
    if "divergence" in values:
        parts += [
            f"d {values['divergence']:.3f}",
            f"w {values['weight']:.2f}",
            f"control {values['log_ratio_control']:+.3f}",
        ]
    parts += [f"grad {values['grad_norm']:.3f}", f"{values['total_s']:.1f} s"]
    return "  ".join(parts)


def _step_line(values: Mapping[str, Any]) -> str:
    return (
        f"step {values['update']:>4}/{values['num_updates']}  loss {values['loss']:.4f}  "
        f"grad {values['grad_norm']:.3f}  lr {values['lr']:.2e}  {values['elapsed_s']:.0f} s"
    )


def _progress_line(values: Mapping[str, Any]) -> str:
    right = f", {values['correct']:.1%} of the new ones right" if "correct" in values else ""
    return f"{values['done']:>6} of {values['total']} samples{right}"


def _evaluation_line(values: Mapping[str, Any]) -> str:
    if not values["num_problems"]:
        return "evaluation: no problem could be graded"
    return (
        f"evaluation after update {values['update']}: avg@{values['k']} {values['avg@k']:.1%} "
        f"[{values['avg@k_low']:.1%}, {values['avg@k_high']:.1%}]  calls {values['tool_calls']:.2f}"
    )


def _alarm_line(values: Mapping[str, Any]) -> Text:
    return Text.assemble(("ALARM", "bold red"), f" at update {values['update']}: {said(values['message'])}")


def sandbox_line(layers: Sequence[str]) -> Text:
    """How code is cut off, loud where it is not: `sandbox level A: userns, pidns, ...`."""
    level, *others = layers
    text = Text(f"sandbox {level if level in ('fusion', 'unsafe') else f'level {level}'}: {', '.join(others)}")
    if level == "unsafe":
        text.stylize("bold red")
        text.append("  CODE RUNS WITH YOUR OWN RIGHTS (sandbox.allow_unsafe)")
    elif level == "B":
        text.append("  (code can start no processes)")
    return text


_LINES: Mapping[str, Callable[[Mapping[str, Any]], str | Text]] = {
    "update": _update_line,
    "step": _step_line,
    "evaluation": _evaluation_line,
    "alarm": _alarm_line,
    "warning": lambda values: f"Warning: {said(values['message'])}",
    "sandbox": lambda values: sandbox_line(values["layers"]),
    "finished": lambda values: f"{said(values['run'])} is finished already; give another `run` to start anew.",
    "resumed": lambda values: f"Continuing after update {values['update']}.",
    "progress": _progress_line,
    "left_out": lambda values: (
        f"Left out {values['too_long']} traces longer than max_tokens and {values['unreadable']} that the template "
        f"cannot write; {values['kept']} are kept."
    ),
    "skipped": lambda values: _skipped_lines(values),
    "regraded": lambda values: (
        f"{values['num_changed']} of {values['num_samples']} verdicts changed: {values['now_right']} now right, "
        f"{values['now_wrong']} now wrong, {values['now_ungraded']} that nobody can grade."
    ),
}


def _skipped_lines(values: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{said(values['name'])}: left out {count} rows: {said(reason)} "
        f"(row {', '.join(map(str, values['named'][reason]))}{', ...' if count > len(values['named'][reason]) else ''})"
        for reason, count in values["skipped"].items()
    )
