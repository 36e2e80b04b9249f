"""`sod sft` and `sod train`: what is learned, from what, how fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sod.config.episode import AgentConfig, SandboxConfig, ToolConfig
from sod.config.methods import MethodName, PresetName, fill_in
from sod.config.models import LoRAConfig, ModelConfig, SamplingConfig
from sod.config.objective import ObjectiveConfig, WeightConfig
from sod.config.problems import DataConfig, RewardConfig
from sod.config.rubrics import RubricConfig
from sod.config.section import Count, Decay, Fraction, FromList, NonNegative, Positive, Section
from sod.config.teaching import TeachingConfig
from sod.config.tracking import TrackingConfig


class OptimizerConfig(Section):
    """AdamW and its schedule."""

    kind: Literal["adamw", "adamw8bit"] = "adamw"
    """"adamw" keeps moments in float32, "adamw8bit" in 8 bits a number."""
    lr: Positive = 1e-6
    """Peak learning rate."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay."""
    betas: Annotated[tuple[Decay, Decay], FromList] = (0.9, 0.999)
    """AdamW's decay of the first and second moment."""
    max_grad_norm: NonNegative = 1.0
    """Gradients are scaled down to this norm; 0 is off."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: stay at lr, or fall to 0 along a cosine."""
    warmup: Fraction = 0.0
    """Share of all steps over which lr rises from 0."""


class ColdStartOptimizerConfig(OptimizerConfig):
    """AdamW and its schedule as the published cold start has them; a class of its own, so that a config that sets one
    of these keeps the others."""

    lr: Positive = 1e-5
    """Peak learning rate."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """After the warm-up: stay at lr, or fall to 0 along a cosine."""
    warmup: Fraction = 0.1
    """Share of all steps over which lr rises from 0."""


class UpdateConfig(Section):
    """How much is sampled and learned per update."""

    num_updates: Count = 120
    """Updates in the run: each samples afresh, then takes `optimizer_steps`."""
    prompts: Count = 64
    """Problems per update."""
    samples: Count = 16
    """Trajectories per problem: the siblings of a group."""
    optimizer_steps: Count = 4
    """Optimizer steps per update; the update's trajectories are dealt out among them."""
    tokens_per_microbatch: Count = 32768
    """Tokens in one forward and backward. It changes memory, not the result."""
    student_logprobs: Literal["rollout", "recompute"] = "rollout"
    """Log-probs before the update: the sampler's own, or one more forward of the training model."""
    gradient_checkpointing: bool = False
    """Keep one activation a layer and compute the rest again in the backward pass: less memory, one more forward."""
    teacher_scoring: Literal["trajectory", "step"] = "trajectory"
    """The teacher scores a trajectory when it ends, or each step while its tool runs (more requests, less to wait)."""
    staleness: Literal[0, 1] = 0
    """Updates by which the sampling weights may be old: 1 samples the next update's trajectories while this one is
    learned, and then a run that resumes draws other samples than one that went through."""
    evaluate_every: Annotated[int, Field(ge=0)] = 0
    """Evaluate before the first and after every so many updates; 0 is off."""
    save_every: Annotated[int, Field(ge=0)] = 20
    """Write a checkpoint every so many updates; 0 writes only the last."""


class GuardConfig(Section):
    """Rules that stop a run whose signal does not arrive or whose student collapses."""

    on_alarm: Literal["stop", "warn", "off"] = "warn"
    """What an alarm does: end the run with its checkpoint written, say it loudly, or nothing."""
    window: Count = 5
    """Updates over which a rate is averaged; the first window is the reference."""
    tool_call_floor: Fraction = 0.5
    """Alarm when tool calls per trajectory fall below this share of the reference; 0 is off."""
    retry_floor: Fraction = 0.9
    """Alarm when the share of failed calls that are followed by another falls below this share of the reference's; 0 is
    off."""
    reward_floor: Fraction = 0.5
    """Alarm when the mean reward falls below this share of the reference; 0 is off."""
    failed_call_ceiling: Fraction = 0.5
    """Alarm when this share of a window's calls fails and the reference's was at most half of it; 1 is off."""
    infrastructure_ceiling: Fraction = 0.01
    """Stop when a larger share of the latest calls failed through no fault of the student (at least 3); 1 is off."""
    infrastructure_window: Count = 1000
    """Calls that share is taken over: those of the fewest latest updates that have as many together."""
    teacher_self_gap: NonNegative = 0.05
    """At the start the teacher scores its own samples; the mean gap in nats must stay below this; 0 is off."""


class TrainConfig(Section):
    """`sod train`: distillation and GRPO."""

    run: Annotated[str, Field(min_length=1)]
    """Run directory; made when missing, continued when it holds an unfinished run of the same config."""
    method: MethodName = "sod"
    """A recipe by name: what it sets in [objective] and [weights], see METHODS. "custom" sets nothing."""
    preset: PresetName = "paper"
    """What fills in settings that are left open: "paper" is the published rule, "stable" what held in our study."""
    seed: int = 0
    """Decides data order and every draw."""
    student: ModelConfig
    """The model that is trained. Its engine only samples; training is always transformers' own model."""
    lora: LoRAConfig | None = None
    """Train low-rank additions only; none trains all weights."""
    teacher: ModelConfig | None = None
    """The model that scores the student's tokens. With `method = "grpo"` it only measures the divergence."""
    teachers: dict[str, ModelConfig] = Field(default_factory=dict)
    """Teachers by the `source` of a problem ([teachers.NAME] path = ...); all other problems have [teacher]."""
    teaching: TeachingConfig = TeachingConfig()
    """What the teacher is shown, and whether it is a copy of the student."""
    rubrics: RubricConfig | None = None
    """Rewards from a teacher that gives text and no log-probs, for `method = "ropd"`."""
    data: DataConfig
    """Training problems."""
    evaluation: DataConfig | None = None
    """Problems for `update.evaluate_every`."""
    evaluation_samples: Count = 4
    """Samples per evaluation problem."""
    sampling: SamplingConfig = SamplingConfig()
    """How the student draws, in training and in `evaluation`."""
    agent: AgentConfig = AgentConfig()
    """The limits of one episode."""
    tool: ToolConfig = ToolConfig()
    """The code interpreter as the student sees it."""
    sandbox: SandboxConfig = SandboxConfig()
    """Where the student's code runs."""
    rewards: RewardConfig = RewardConfig()
    """How answers are graded, and what training makes of the verdict."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """The terms of the loss."""
    weights: WeightConfig = WeightConfig()
    """How far the teacher is trusted at each step."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW and its schedule."""
    update: UpdateConfig = UpdateConfig()
    """How much is sampled and learned per update, and when to evaluate and save."""
    guards: GuardConfig = GuardConfig()
    """Rules that warn of a run that goes wrong, or stop it."""
    tracking: TrackingConfig = TrackingConfig()
    """Who is told of the metrics beside the run's own files."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, values: Any) -> Any:
        return fill_in(values) if isinstance(values, Mapping) else values

    @property
    def learns_from_teacher(self) -> bool:
        """Whether the teacher's term is in the loss; otherwise a teacher only measures."""
        return self.objective.coef > 0.0

    @property
    def has_teacher(self) -> bool:
        """Whether anybody scores the student's tokens."""
        return bool(self.teacher or self.teachers or self.teaching.student_copy != "off")

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        if self.data.benchmark:
            raise ValueError(
                f'data.benchmark = "{self.data.benchmark}" is a test set; train on other problems (data.path), and put '
                "the benchmark under [evaluation]"
            )
        if self.evaluation is not None and self.evaluation.too_long != "refuse":
            raise ValueError(
                'evaluation.too_long = "leave_out" would make the evaluation easier; leave it out, and raise '
                "agent.max_prompt_tokens"
            )
        self._check_teachers()
        if self.learns_from_teacher and not self.has_teacher:
            raise ValueError(f'method "{self.method}" needs a teacher, got none; add [teacher] path = "..."')
        if not self.learns_from_teacher and self.method not in ("grpo", "ropd", "custom"):
            raise ValueError(f'method "{self.method}" with objective.coef = 0 has no teacher term; use method = "grpo"')
        if not self.learns_from_teacher and not self.objective.outcome:
            raise ValueError(
                "nothing is learned from: got objective.outcome = false and objective.coef = 0; switch one of them on"
            )
        if self.objective.outcome and not self.learns_from_teacher and self.update.samples < 2:
            raise ValueError(f'method "{self.method}" compares siblings, so update.samples must be at least 2, got 1')
        if self.sampling.temperature == 0.0:
            raise ValueError(
                "sampling.temperature must be above 0 in training, got 0: log-probs of a greedy draw are no signal"
            )
        self._check_engines()
        if self.update.evaluate_every and self.evaluation is None:
            raise ValueError(
                "update.evaluate_every is on but there is nothing to evaluate on; add [evaluation] path = ..."
            )
        num_trajectories = self.update.prompts * self.update.samples
        if self.update.optimizer_steps > num_trajectories:
            raise ValueError(
                f"update.optimizer_steps must be at most prompts x samples = {num_trajectories}, "
                f"got {self.update.optimizer_steps}"
            )
        return self

    def _check_teachers(self) -> None:
        if self.method == "ropd" and self.rubrics is None:
            raise ValueError(
                'method "ropd" needs who writes rubrics, got none; add [rubrics] url = ... and model = ...'
            )
        if self.rubrics is not None and self.method not in ("ropd", "custom"):
            raise ValueError(f'rewards by [rubrics] are for method "ropd", got "{self.method}"; leave one of them out')
        if "" in self.teachers:
            raise ValueError('a source needs a name, got [teachers.""]; [teacher] has the problems without a source')
        if self.teaching.shows != "prompt" and not self.has_teacher:
            raise ValueError(f'teaching.shows = "{self.teaching.shows}" needs a teacher to show it to, got none')
        copied = self.teaching.student_copy
        if copied != "off" and (self.teacher or self.teachers):
            raise ValueError(
                f'with teaching.student_copy = "{copied}" the student\'s own weights teach, got [teacher] or '
                "[teachers] as well; leave one of them out"
            )
        if copied == "ema" and self.update.staleness:
            raise ValueError(
                "an averaged teacher changes when nothing is scored, got update.staleness = 1, which always scores; "
                'set it to 0, or teaching.student_copy to "frozen"'
            )
        if copied == "off" and self.method in ("opsd_gt", "opsd_hint"):
            raise ValueError(
                f'method "{self.method}" is taught by a copy of the student, got teaching.student_copy = "off"; set it '
                'to "frozen" or "ema", or use method = "opd" with teaching.shows for another teacher'
            )

    @property
    def _teachers(self) -> Mapping[str, ModelConfig]:
        """All teachers by the name of their section."""
        own = {} if self.teacher is None else {"teacher": self.teacher}
        return {**own, **{f"teachers.{source}": model for source, model in self.teachers.items()}}

    @property
    def _cuts(self) -> bool:
        return self.sampling.top_p < 1.0 or self.sampling.top_k > 0

    def _check_engines(self) -> None:
        if self.student.engine == "server":
            raise ValueError(
                'student.engine must be "hf" or "vllm", got "server": the weights of a server cannot be trained'
            )
        if self.student.engine == "vllm" and self.sampling.temperature != 1.0 and self._cuts:
            raise ValueError(
                "vLLM gives log-probs after top-p / top-k cuts unless the temperature is 1, got sampling.temperature = "
                f"{self.sampling.temperature:g} with a cut; set top_p = 1 and top_k = 0, or temperature = 1"
            )
        for name, teacher in self._teachers.items():
            self._check_teacher_engine(name, teacher)
        if self.update.staleness and self.student.vllm.sleep:
            raise ValueError(
                "with update.staleness = 1 vLLM samples while the student is trained, so it cannot sleep, got "
                "student.vllm.sleep = true; leave one of them out"
            )
        self._check_positions()
        self._check_importance()
        self._check_distributions()

    def _check_teacher_engine(self, name: str, teacher: ModelConfig) -> None:
        if teacher.engine != "hf" and self.sampling.temperature != 1.0:
            raise ValueError(
                f'a teacher with engine = "{teacher.engine}" scores at temperature 1 only, got '
                f'sampling.temperature = {self.sampling.temperature:g}; set it to 1, or {name}.engine to "hf"'
            )
        if teacher.engine == "vllm" and teacher.vllm.sleep:
            raise ValueError(f"a teacher is never put to sleep, got {name}.vllm.sleep = true; leave it out")
        if teacher.engine == "server" and self.update.teacher_scoring == "step":
            raise ValueError(
                'a server keeps nothing of a trajectory, so update.teacher_scoring = "step" would send and score its '
                f'beginning again with every step; set it to "trajectory", or {name}.engine to "hf" or "vllm"'
            )

    def _check_positions(self) -> None:
        longest = self.agent.max_prompt_tokens + self.agent.max_response_tokens
        for name, model in {"student": self.student, **self._teachers}.items():
            if model.engine == "vllm" and 0 < model.vllm.max_length < longest:
                raise ValueError(
                    f"{name}.vllm.max_length must hold agent.max_prompt_tokens + agent.max_response_tokens = "
                    f"{longest}, got {model.vllm.max_length}; raise it, or lower those"
                )

    def _check_distributions(self) -> None:
        """Whole distributions are compared where both models' weights are."""
        wants = []
        if self.objective.signal == "divergence" and self.learns_from_teacher:
            wants.append('objective.signal = "divergence"')
        if self.weights.of_distributions:
            wants.append(f'weights.divergence = "{self.weights.divergence}"')
        if wants and (self.teacher is None or self.teacher.engine != "hf" or self.teachers):
            got = "no [teacher]" if self.teacher is None else f'engine = "{self.teacher.engine}"'
            raise ValueError(
                f'{wants[0]} needs one teacher, with its weights in this process (engine = "hf"), got '
                f"{'several teachers' if self.teachers else got}"
            )
        if wants and self.teaching.shows != "prompt":
            raise ValueError(f'{wants[0]} needs teaching.shows = "prompt", got "{self.teaching.shows}"')

    def _check_importance(self) -> None:
        if self.update.staleness and self.update.student_logprobs == "recompute" and self.objective.importance == "off":
            raise ValueError(
                'with update.staleness = 1 and update.student_logprobs = "recompute" nothing corrects for the older '
                'weights that sampled, got objective.importance = "off"; set it to "token" or "sequence"'
            )
        if self.objective.importance != "off" and self.update.student_logprobs != "recompute":
            raise ValueError(
                "objective.importance compares the training model before the update with the sampler, so "
                'update.student_logprobs must be "recompute", got "rollout"'
            )


class SFTConfig(Section):
    """`sod sft`: the cold start on traces."""

    run: Annotated[str, Field(min_length=1)]
    """Run directory."""
    seed: int = 0
    """Decides the order of the traces."""
    student: ModelConfig
    """The model that is trained."""
    lora: LoRAConfig | None = None
    """Train low-rank additions only; none trains all weights."""
    traces: Annotated[str, Field(min_length=1)]
    """A file of traces, rows with a `messages` column: .jsonl, .json (both also as .gz) or .parquet."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Take the first so many traces; 0 takes all."""
    epochs: Positive = 5.0
    """Passes over the traces."""
    batch: Count = 128
    """Traces per optimizer step."""
    max_tokens: Count = 32768
    """Longest trace in tokens; longer ones are counted and left out."""
    tokens_per_microbatch: Count = 32768
    """Tokens in one forward and backward."""
    gradient_checkpointing: bool = False
    """Keep one activation a layer and compute the rest again in the backward pass: less memory, one more forward."""
    agent: AgentConfig = AgentConfig()
    """`thinking` and `system` as in the rollouts to come; the limits are not used."""
    tool: ToolConfig = ToolConfig()
    """The tool that the prompts offer."""
    optimizer: ColdStartOptimizerConfig = ColdStartOptimizerConfig()
    """AdamW and its schedule."""
    tracking: TrackingConfig = TrackingConfig()
    """Who is told of the metrics beside the run's own files."""

    @model_validator(mode="after")
    def _only_trains(self) -> Self:
        if self.student.engine != "hf":
            raise ValueError(
                f'a cold start samples nothing, so student.engine must be "hf", got "{self.student.engine}"'
            )
        return self
