"""`sod sft` and `sod train`: what is learned, from what, how fast."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sod.config.episode import AgentConfig, SandboxConfig, ToolConfig
from sod.config.methods import METHODS, Method, MethodName
from sod.config.models import LoRAConfig, ModelConfig, SamplingConfig
from sod.config.problems import DataConfig, RewardConfig
from sod.config.section import Count, Decay, Fraction, FromList, NonNegative, Positive, Section


class ObjectiveConfig(Section):
    """The objective: equations 2, 6, 7, 9 and 10 of the paper."""

    coef: NonNegative = 1.0
    """Factor of the teacher's log-ratio."""
    delta: NonNegative = 0.2
    """A step's weight is at most 1 + delta."""
    epsilon: Positive = 1e-6
    """Added to both divergences of a weight, in nats: far below d's scale the weight is a cliff, near it a slope."""
    advantage_epsilon: Positive = 1e-6
    """Added to the group's standard deviation."""
    divide_by_std: bool = True
    """Divide the outcome advantage by the group's standard deviation."""
    clip_low: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """The ratio is clipped below at 1 - clip_low."""
    clip_high: NonNegative = 0.28
    """The ratio is clipped above at 1 + clip_high."""
    clip_dual: Annotated[float, Field(ge=0.0)] = 3.0
    """A negative advantage's loss is at most clip_dual times its size; 0 is off."""
    reduction: Literal["token-mean", "sequence-mean"] = "token-mean"
    """Mean over all student tokens of an optimizer step, or over trajectories of their token means."""
    importance: Literal["off", "token", "sequence"] = "off"
    """Weigh the loss by p_before / p_rollout, the training model before the update against the sampler: by token, or by
    trajectory with the product over its tokens."""
    importance_cap: Annotated[float, Field(ge=1.0)] = 2.0
    """Importance weights are cut at this size."""
    importance_mask: bool = False
    """Weights above the cap count as 0 instead of the cap: those tokens or trajectories teach nothing."""

    @model_validator(mode="after")
    def _dual_clip_above_one(self) -> Self:
        if 0.0 < self.clip_dual <= 1.0 + self.clip_high:
            raise ValueError(
                f"clip_dual must be 0 (off) or above 1 + clip_high = {1.0 + self.clip_high:g}, "
                f"got {self.clip_dual:g}; the published value is 3.0"
            )
        return self


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
    """Which terms the advantage has: see METHODS."""
    seed: int = 0
    """Decides data order and every draw."""
    student: ModelConfig
    """The model that is trained. Its engine only samples; training is always transformers' own model."""
    lora: LoRAConfig | None = None
    """Train low-rank additions only; none trains all weights."""
    teacher: ModelConfig | None = None
    """The model that scores the student's tokens. With `method = "grpo"` it only measures the divergence."""
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
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW and its schedule."""
    update: UpdateConfig = UpdateConfig()
    """How much is sampled and learned per update, and when to evaluate and save."""
    guards: GuardConfig = GuardConfig()
    """Rules that warn of a run that goes wrong, or stop it."""

    @property
    def terms(self) -> Method:
        """The terms of `method`."""
        return METHODS[self.method]

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        if self.data.benchmark:
            raise ValueError(
                f'data.benchmark = "{self.data.benchmark}" is a test set; train on other problems (data.path), and put '
                "the benchmark under [evaluation]"
            )
        if self.terms.teacher and self.teacher is None:
            raise ValueError(f'method "{self.method}" needs a teacher, got none; add [teacher] path = "..."')
        if self.terms.teacher and self.objective.coef == 0.0:
            raise ValueError(f'method "{self.method}" with objective.coef = 0 has no teacher term; use method = "grpo"')
        if self.terms.outcome and not self.terms.teacher and self.update.samples < 2:
            raise ValueError('method "grpo" compares siblings, so update.samples must be at least 2, got 1')
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
        if self.teacher and self.teacher.engine != "hf" and self.sampling.temperature != 1.0:
            raise ValueError(
                f'a teacher with engine = "{self.teacher.engine}" scores at temperature 1 only, got '
                f'sampling.temperature = {self.sampling.temperature:g}; set it to 1, or teacher.engine to "hf"'
            )
        if self.teacher and self.teacher.engine == "vllm" and self.teacher.vllm.sleep:
            raise ValueError("a teacher is never put to sleep, got teacher.vllm.sleep = true; leave it out")
        if self.teacher and self.teacher.engine == "server" and self.update.teacher_scoring == "step":
            raise ValueError(
                'a server keeps nothing of a trajectory, so update.teacher_scoring = "step" would send and score its '
                'beginning again with every step; set it to "trajectory", or teacher.engine to "hf" or "vllm"'
            )
        if self.update.staleness and self.student.vllm.sleep:
            raise ValueError(
                "with update.staleness = 1 vLLM samples while the student is trained, so it cannot sleep, got "
                "student.vllm.sleep = true; leave one of them out"
            )
        self._check_positions()
        self._check_importance()

    def _check_positions(self) -> None:
        longest = self.agent.max_prompt_tokens + self.agent.max_response_tokens
        for name, model in (("student", self.student), ("teacher", self.teacher)):
            if model and model.engine == "vllm" and 0 < model.vllm.max_length < longest:
                raise ValueError(
                    f"{name}.vllm.max_length must hold agent.max_prompt_tokens + agent.max_response_tokens = "
                    f"{longest}, got {model.vllm.max_length}; raise it, or lower those"
                )

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
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-5, schedule="cosine", warmup=0.1)
    """AdamW and its schedule."""

    @model_validator(mode="after")
    def _only_trains(self) -> Self:
        if self.student.engine != "hf":
            raise ValueError(
                f'a cold start samples nothing, so student.engine must be "hf", got "{self.student.engine}"'
            )
        return self
