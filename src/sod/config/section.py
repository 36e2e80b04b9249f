"""What every group of settings is: frozen, checked, a sentence to each field."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
FromList = Field(strict=False)  # TOML and JSON have lists only, a frozen section has tuples


class Section(BaseModel):
    """A frozen group of settings. Unknown keys are refused, and so is a value of another type: nothing is converted."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


def toml(value: Any) -> str:
    """A setting's value as a config file has it: `True -> true`, `"off" -> "off"` with its quotes, `0.3 -> 0.3`."""
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)
