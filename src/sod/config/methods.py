"""Methods and presets by name: settings over one loop, nothing more.

A method *is* what it sets: a config that names a method and sets one of these otherwise is refused. A preset only fills
in what a config leaves open. `method = "custom"` sets nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sod.config.section import Section, toml


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A recipe: what it is in a sentence, where it comes from, and its settings by dotted name."""

    summary: str
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)


_SOD = "arXiv 2605.07725"
_OUTCOME = {"objective.outcome": True}
_NO_OUTCOME = {"objective.outcome": False}
_TEACHER = {"objective.signal": "log_ratio"}
_EVEN = {"weights.rule": "uniform"}
_RATIO = {"weights.rule": "ratio"}

METHODS: Mapping[str, Method] = {
    "grpo": Method(
        summary="The outcome's advantage alone; a teacher, if there is one, only measures.",
        source="arXiv 2402.03300",
        settings={**_OUTCOME, "objective.coef": 0.0},
    ),
    "opd": Method(
        summary="The teacher's log-ratio alone, every token alike.",
        source="arXiv 2306.13649",
        settings={**_NO_OUTCOME, **_TEACHER, **_EVEN},
    ),
    "opd_grpo": Method(
        summary="Both terms, every token alike: SOD with uniform weights.",
        source=_SOD,
        settings={**_OUTCOME, **_TEACHER, **_EVEN},
    ),
    "sod": Method(
        summary="Both terms, the teacher's weighed by step (eq 7).",
        source=_SOD,
        settings={**_OUTCOME, **_TEACHER, **_RATIO},
    ),
    "sod_no_grpo": Method(
        summary="SOD without the outcome's advantage.",
        source=_SOD,
        settings={**_NO_OUTCOME, **_TEACHER, **_RATIO},
    ),
    "sod_no_cap": Method(
        summary="SOD whose weights have no upper bound.",
        source=_SOD,
        settings={**_OUTCOME, **_TEACHER, **_RATIO, "weights.delta": "off"},
    ),
    "sod_decay": Method(
        summary="SOD with weights 0.9^(k - first error).",
        source=_SOD,
        settings={**_OUTCOME, **_TEACHER, "weights.rule": "decay", "weights.decay": 0.9},
    ),
    "sod_mask": Method(
        summary="SOD whose teacher is silent after the first error.",
        source=_SOD,
        settings={**_OUTCOME, **_TEACHER, "weights.rule": "decay", "weights.decay": 0.0},
    ),
    "sod_random": Method(
        summary="SOD with eq 7's weights dealt out at random: as large, but they know nothing.",
        source="ablation of this package",
        settings={**_OUTCOME, **_TEACHER, "weights.rule": "random"},
    ),
    "sod_threshold": Method(
        summary="SOD that trusts the teacher fully up to a divergence and not at all beyond.",
        source="ablation of this package",
        settings={**_OUTCOME, **_TEACHER, "weights.rule": "threshold"},
    ),
    "sod_token": Method(
        summary="SOD with eq 7 by token instead of by step.",
        source="ablation of this package",
        settings={**_OUTCOME, **_TEACHER, "weights.rule": "token_ratio"},
    ),
    "sod_outcome": Method(
        summary="SOD whose trust in a divergence is how often steps of it end well.",
        source="after the critics of step weights",
        settings={**_OUTCOME, **_TEACHER, "weights.rule": "outcome"},
    ),
    "iw_opd": Method(
        summary="OPD with weights that fall with the gaps before a token.",
        source="IW-OPD",
        settings={**_NO_OUTCOME, **_TEACHER, "weights.rule": "prefix"},
    ),
    "tcod": Method(
        summary="OPD on the first step only, and on one more after every so many updates.",
        source="TCOD",
        settings={**_NO_OUTCOME, **_TEACHER, **_EVEN},
    ),
    "reopold": Method(
        summary="OPD with a floor under the log-ratio.",
        source="REOPOLD",
        settings={**_NO_OUTCOME, **_TEACHER, **_EVEN},
    ),
    "tropd": Method(
        summary="OPD within a trust region of log-ratios.",
        source="TrOPD",
        settings={**_NO_OUTCOME, **_TEACHER, **_EVEN},
    ),
    "gkd": Method(
        summary="A divergence between the whole distributions on the student's own tokens, in the loss.",
        source="arXiv 2306.13649",
        settings={**_NO_OUTCOME, "objective.signal": "divergence", **_EVEN},
    ),
    "opsd_gt": Method(
        summary="OPD whose teacher is the student's own copy, shown the right answer.",
        source=_SOD,
        settings={**_NO_OUTCOME, **_TEACHER, **_EVEN, "teaching.shows": "answer"},
    ),
    "opsd_hint": Method(
        summary="OPD whose teacher is the student's own copy, shown a hint.",
        source=_SOD,
        settings={**_NO_OUTCOME, **_TEACHER, **_EVEN, "teaching.shows": "hint"},
    ),
    "ropd": Method(
        summary="GRPO on rubric points: criteria made of a teacher's answers, checked by a model (docs/rubrics.md).",
        source="arXiv 2605.07396",
        settings={**_OUTCOME, "objective.coef": 0.0, "objective.divide_by_std": False},
    ),
    "custom": Method(summary="Whatever [objective] and [weights] say.", source="yours"),
}
"""All methods of `sod train`; the cold start is `sod sft`."""

MethodName = Literal[
    "grpo",
    "opd",
    "opd_grpo",
    "sod",
    "sod_no_grpo",
    "sod_no_cap",
    "sod_decay",
    "sod_mask",
    "sod_random",
    "sod_threshold",
    "sod_token",
    "sod_outcome",
    "iw_opd",
    "tcod",
    "reopold",
    "tropd",
    "gkd",
    "opsd_gt",
    "opsd_hint",
    "ropd",
    "custom",
]

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "tcod": {"weights.curriculum": 20},
    "reopold": {"objective.log_ratio_floor": -5.0},
    "tropd": {"objective.trust_region": 2.0},
    "opsd_gt": {"teaching.student_copy": "frozen"},
    "opsd_hint": {"teaching.student_copy": "frozen"},
}
"""What a method cannot be without, but whose size is a matter of taste: filled in when left open."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "stable": {"weights.anchor": "median", "weights.epsilon": 0.3, "weights.after_failure": "earned"},
}
"""Settings that a preset fills in: `paper` is the published rule, which is the default of every setting; `stable` is
what held in the worlds of docs/results.md: one measure of divergence for all trajectories, a slope instead of a cliff,
and a teacher that earns its voice after a failed call."""

PresetName = Literal["paper", "stable"]


def fill_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config's values with what its method and preset set. Raises ValueError where it contradicts its method.

    `{"method": "opd"} -> {"method": "opd", "objective": {"outcome": False, ...}, "weights": {"rule": "uniform"}}`.
    """
    filled = dict(values)
    name, preset = values.get("method", "sod"), values.get("preset", "paper")
    method = METHODS.get(name) if isinstance(name, str) else None
    if method is None or not isinstance(preset, str) or preset not in PRESETS:
        return filled  # another check says so
    for dotted, value in method.settings.items():
        section = _section(filled, dotted)
        given = value if section is None else section.setdefault(dotted.partition(".")[2], value)
        if given != value:
            others = ", ".join(f"{key} = {toml(other)}" for key, other in method.settings.items() if key != dotted)
            raise ValueError(
                f'method = "{name}" is {dotted} = {toml(value)}, got {toml(given)}; leave it out, or set method = '
                f'"custom" and all else that {name} is: {others}'
            )
    for dotted, value in {**DEFAULTS.get(name, {}), **PRESETS[preset]}.items():
        section, key = _section(filled, dotted), dotted.partition(".")[2]
        given = value if section is None else section.setdefault(key, value)
        if dotted in DEFAULTS.get(name, {}) and given in ("off", 0) and not dotted.startswith("teaching."):
            raise ValueError(f'method = "{name}" without {dotted} is plain OPD, got {toml(given)}; use method = "opd"')
    return filled


def _section(filled: dict[str, Any], dotted: str) -> dict[str, Any] | None:
    """The section of a dotted setting, as a dict of its own: what was given to the config stays as it is. None for what
    is no section, which another check says."""
    name = dotted.partition(".")[0]
    section = filled.get(name, {})
    if isinstance(section, Section):
        section = {key: getattr(section, key) for key in section.model_fields_set}
    if not isinstance(section, Mapping):
        return None
    filled[name] = own = dict(section)
    return own
