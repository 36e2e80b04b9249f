"""Where a run's metrics go beside its own files."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from sod.config.section import FromList, Section

TrackerName: TypeAlias = Literal["tensorboard", "wandb", "trackio"]


class TrackingConfig(Section):
    """Metrics of a run told to trackers. Numbers and the config only; nothing leaves the machine unless it is asked."""

    to: Annotated[tuple[TrackerName, ...], FromList] = ()
    """Who is told: "tensorboard" (files in the run), "wandb", "trackio"; empty is off."""
    project: Annotated[str, Field(min_length=1)] = "sod"
    """What runs are filed under in wandb and trackio."""
    name: str = ""
    """The run's name in wandb and trackio; "" takes the path of the run directory."""

    @model_validator(mode="after")
    def _once(self) -> Self:
        if len(set(self.to)) < len(self.to):
            raise ValueError(f'"to" must name each tracker once, got {", ".join(self.to)}')
        return self
