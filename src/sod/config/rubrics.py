"""`[rubrics]` of `sod train`: rewards from a teacher that gives text and no log-probs (ROPD)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sod.config.section import Count, NonNegative, Positive, Section


class RubricConfig(Section):
    """Rubric-based rewards: who answers, who writes the criteria and checks them, and what it may cost.

    Keys of the servers are read from SOD_RUBRIC_KEY and, for another `teacher_url`, SOD_RUBRIC_TEACHER_KEY.
    """

    url: Annotated[str, Field(min_length=1)]
    """Base URL of the OpenAI-compatible server whose model writes the criteria and checks the rollouts."""
    model: Annotated[str, Field(min_length=1)]
    """That model's name at the server."""
    teacher_url: str = ""
    """Base URL of the teacher's server; "" is `url`."""
    teacher_model: str = ""
    """The teacher's name at its server; "" is `model`."""
    teacher_answers: Count = 4
    """Answers of the teacher to each problem, asked once for the whole run."""
    rubric_for: Literal["group", "prompt"] = "group"
    """"group" writes criteria for every group, from the teacher's answers and the rollouts, as published; "prompt"
    once for a problem, from the teacher's answers alone: cheaper, and blind to what this student does."""
    teacher_temperature: NonNegative = 1.0
    """How the teacher's answers are drawn; at 0 all would be one, so it needs teacher_answers = 1."""
    rubric_temperature: NonNegative = 0.0
    """How criteria are drawn. Services that know only one temperature want 1."""
    verdict_temperature: NonNegative = 0.0
    """How verdicts are drawn. Services that know only one temperature want 1."""
    max_answer_tokens: Count = 4096
    """Tokens of one reply, hidden thoughts included; a longer one is cut."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The name by which the servers know that limit."""
    min_criteria: Count = 4
    """Criteria of a rubric, at least."""
    max_criteria: Count = 12
    """Criteria of a rubric, at most."""
    min_points: Count = 1
    """What a criterion is worth, at least."""
    max_points: Count = 5
    """What a criterion is worth, at most."""
    eps: Positive = 1e-6
    """Added to the sum of the points by which a reward is divided."""
    max_result_chars: Annotated[int, Field(ge=64)] = 2000
    """Characters of one tool result that are shown; a longer one is cut in the middle."""
    max_rollout_chars: Annotated[int, Field(ge=256)] = 32000
    """Characters of one rollout, or of one answer of the teacher, that are shown; its longest parts are cut."""
    cache: str = ""
    """Directory in which answers are kept, so that none is paid for twice; "" is inside the run."""
    max_requests: Annotated[int, Field(ge=0)] = 100_000
    """Requests that the run may send in all its sessions, repeated ones included; 0 is no limit."""
    max_tokens: Annotated[int, Field(ge=0)] = 100_000_000
    """Tokens, of prompts and replies together, that the run may use in all its sessions; 0 is no limit."""
    max_concurrent: Count = 16
    """Requests under way at once, at each server."""
    timeout_s: Positive = 600.0
    """Seconds one request may take."""

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for least, most in (("min_criteria", "max_criteria"), ("min_points", "max_points")):
            low, high = getattr(self, least), getattr(self, most)
            if low > high:
                raise ValueError(f"{least} must be at most {most}, got {low} and {high}; change one of them")
        return self

    @model_validator(mode="after")
    def _different_answers(self) -> Self:
        if self.teacher_answers > 1 and self.teacher_temperature == 0.0:
            raise ValueError(
                "teacher_temperature = 0 draws the same answer each time, got teacher_answers = "
                f"{self.teacher_answers}; set teacher_answers = 1, or a temperature above 0"
            )
        return self
