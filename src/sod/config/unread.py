"""Settings that another one leaves without effect: said at the start, so that nobody believes they did something."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sod.config.methods import PRESETS
from sod.config.section import Section, toml
from sod.config.training import TrainConfig

_OF_RATIO = ("weights.rule", ("ratio", "random"))
_BY_TOKEN_TOO = ("weights.rule", ("ratio", "random", "token_ratio"))
_CAPPED = ("weights.rule", ("ratio", "random", "token_ratio", "outcome"))
_LOG_RATIO = ("objective.signal", ("log_ratio",))
_DIVERGENCE = ("objective.signal", ("divergence",))

READ_WITH: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "weights.delta": _CAPPED,
    "weights.epsilon": _BY_TOKEN_TOO,
    "weights.anchor": _OF_RATIO,
    "weights.floor": _OF_RATIO,
    "weights.decay": ("weights.rule", ("decay",)),
    "weights.threshold": ("weights.rule", ("threshold",)),
    "weights.gamma": ("weights.rule", ("prefix",)),
    "weights.top_k": ("weights.divergence", ("top_k_kl",)),
    "objective.beta": _DIVERGENCE,
    "objective.top_k": _DIVERGENCE,
    "objective.log_ratio_floor": _LOG_RATIO,
    "objective.log_ratio_ceiling": _LOG_RATIO,
    "objective.trust_region": _LOG_RATIO,
    "objective.outside": ("objective.trust_region", (float,)),
    "objective.divide_by_std": ("objective.outcome", (True,)),
    "objective.importance_cap": ("objective.importance", ("token", "sequence")),
    "objective.importance_mask": ("objective.importance", ("token", "sequence")),
    "teaching.ema_decay": ("teaching.student_copy", ("ema",)),
}
"""A setting, and the values of another with which it is read; `float` stands for every number."""


def unread(config: TrainConfig) -> Iterator[str]:
    """What was set to something else than its default, or its preset, and does nothing: a sentence each.

    `method = "opd", weights.epsilon = 0.3` -> 'weights.epsilon = 0.3 does nothing with weights.rule = "uniform"; it is
    read with "ratio", "random", "token_ratio"'
    """
    for dotted, (governor, values) in READ_WITH.items():
        chosen, given = _get(config, governor), _get(config, dotted)
        if reads(chosen, values) or given in (_default(config, dotted), PRESETS[config.preset].get(dotted)):
            continue
        yield (
            f"{dotted} = {toml(given)} does nothing with {governor} = {toml(chosen)}; it is read with "
            f"{', '.join('a number' if value is float else toml(value) for value in values)}"
        )


def reads(chosen: Any, values: tuple[Any, ...]) -> bool:
    """`"ratio", ("ratio", "random") -> True; 2.0, (float,) -> True`."""
    return chosen in values or type(chosen) in values


def _get(config: TrainConfig, dotted: str) -> Any:
    section, key = dotted.split(".")
    return getattr(getattr(config, section), key)


def _default(config: TrainConfig, dotted: str) -> Any:
    name, key = dotted.split(".")
    section: Section = getattr(config, name)
    return type(section).model_fields[key].default
