"""What a teacher is shown, whether it is a copy of the student, and how hints for it are written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from sod.config.models import ModelConfig, SamplingConfig
from sod.config.problems import DataConfig
from sod.config.section import Count, Decay, Section

Shows: TypeAlias = Literal["prompt", "answer", "solution", "hint"]
StudentCopyKind: TypeAlias = Literal["off", "frozen", "ema"]


class TeachingConfig(Section):
    """What makes a teacher of a scorer: what it is shown, and whose weights it has."""

    shows: Shows = "prompt"
    """What stands in the teacher's prompt: "prompt" what the student is shown and no more; with "answer", "solution"
    or "hint" that of the problem too, which every problem must then have. The student never sees it."""
    student_copy: StudentCopyKind = "off"
    """Whose weights the teacher has: "off" those of [teacher], "frozen" the student's as the run begins, "ema" an
    average of the student's over its updates. A copy must be shown more than the student."""
    ema_decay: Decay = 0.99
    """What the average keeps of itself at each update, the rest is the student's; 0 is the student itself. Not used
    unless student_copy = "ema"."""

    @model_validator(mode="after")
    def _copy_is_shown_more(self) -> Self:
        if self.student_copy != "off" and self.shows == "prompt":
            raise ValueError(
                "a copy of the student that is shown what the student is shown says what the student says, got "
                f'student_copy = "{self.student_copy}" and shows = "prompt"; set shows to "answer", "solution" or '
                '"hint"'
            )
        return self


class HintsConfig(Section):
    """Hints for a teacher with `shows = "hint"`, written by a model from reference solutions."""

    data: DataConfig
    """Problems with solutions."""
    out: Annotated[str, Field(min_length=1)]
    """The file of rows to write, a .jsonl; one that was begun is continued."""
    model: ModelConfig
    """The model that writes."""
    seed: int = 0
    """Decides every draw."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.7, top_p=0.95)
    """How the model draws."""
    thinking: bool = False
    """Ask the template for its thinking mode; thoughts are left out of the hint."""
    max_tokens: Count = 512
    """Tokens the model may write, thoughts included; a hint that was cut there is not used."""
    max_sentences: Count = 3
    """Sentences that are asked for, at most."""
    max_concurrent: Count = 64
    """Hints under way at once, at most."""

    @model_validator(mode="after")
    def _lines_for_training(self) -> Self:
        if not self.out.endswith(".jsonl"):
            raise ValueError(f'out must end with .jsonl, got "{self.out}"')
        if self.data.benchmark:
            raise ValueError(
                f'hints are for training, and data.benchmark = "{self.data.benchmark}" is a test set; give data.path'
            )
        if Path(self.out).resolve() == Path(self.data.path).resolve():
            raise ValueError(f'out must be another file than data.path, got "{self.out}" for both; give another out')
        return self
