"""What the live view follows: a run's plan, and the numbers of an update that tell whether it goes well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sod.config import EvalConfig, SFTConfig, TrainConfig
from sod.report.untrusted import number

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gauge:
    """One followed number. A value of None (nothing to measure in that update) leaves a gap in its history."""

    label: str
    read: Callable[[Values], float | None]
    form: str = "{:.3f}"
    """How a value looks; one that ends with % is a share, whose change is in points."""
    compared: bool = True
    """Whether the change against the first window is shown."""

    def shown(self, value: float) -> str:
        """`0.3541 -> "0.354"`."""
        return self.form.format(value)

    def change(self, before: float, now: float) -> str:
        """`0.25, 0.354 -> "+0.104"`; of a share in points: `"+10.4 pt"`."""
        if self.form.endswith("%}"):
            return f"{100 * (now - before):+.1f} pt"
        return self.form.replace("{:", "{:+").format(now - before)


def _key(name: str) -> Callable[[Values], float | None]:
    return lambda values: number(values.get(name))


def _share(part: str, whole: str) -> Callable[[Values], float | None]:
    """`part` / `whole` of an update; None where the whole is nothing."""

    def read(values: Values) -> float | None:
        counted, total = number(values.get(part)), number(values.get(whole))
        return counted / total if counted is not None and total else None

    return read


TRAINING = (
    Gauge(label="reward", read=_key("reward")),
    Gauge(label="accuracy", read=_key("accuracy"), form="{:.1%}"),
    Gauge(label="divergence", read=_key("divergence")),
    Gauge(label="mean weight", read=_key("weight")),
    Gauge(label="tool calls", read=_key("tool_calls"), form="{:.2f}"),
    Gauge(label="  failed", read=_share("failed_calls", "num_calls"), form="{:.1%}"),
    Gauge(label="  tried again", read=_share("retried", "failed_turns"), form="{:.1%}"),
    Gauge(label="entropy", read=_key("entropy")),
    Gauge(label="gradient", read=_key("grad_norm")),
)
COLD_START = (
    Gauge(label="loss", read=_key("loss"), form="{:.4f}"),
    Gauge(label="gradient", read=_key("grad_norm")),
    Gauge(label="learning rate", read=_key("lr"), form="{:.2e}", compared=False),
)
EVALUATION = (Gauge(label="right so far", read=_key("correct"), form="{:.1%}", compared=False),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is known of a run before it says anything."""

    title: str
    unit: str
    total: int | None
    """Units in the run; None until it says so."""
    gauges: tuple[Gauge, ...]
    window: int = 5
    """Updates that the first and the latest are averaged over."""
    run: str = ""


def plan_of(config: TrainConfig | SFTConfig | EvalConfig) -> Plan:
    """The plan of a config's command."""
    if isinstance(config, TrainConfig):
        return Plan(
            title=f"sod train {config.run}, method {config.method}",
            unit="update",
            total=config.update.num_updates,
            gauges=TRAINING,
            window=config.guards.window,
            run=config.run,
        )
    if isinstance(config, SFTConfig):
        return Plan(title=f"sod sft {config.run}", unit="step", total=None, gauges=COLD_START, run=config.run)
    return Plan(title=f"sod eval {config.run}", unit="sample", total=None, gauges=EVALUATION, run=config.run)
