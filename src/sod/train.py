"""The loop: sample, score, weigh, step, sync, record.

A run is decided by its config: problems and draws come from the seed and the update's number, so a run continued from a
checkpoint is the run that was never interrupted, but for the last bits of sums that are grouped otherwise.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from sod.agent import Agent, draw_seed, make_agent, run_all
from sod.batch import Batch, collate
from sod.chat import Tokenizer, load_tokenizer
from sod.config import FREE, DataConfig, ModelConfig, TrainConfig, dump, unread
from sod.credit import Credit, Trust
from sod.data import ProblemSet, load_problems, shared_questions
from sod.errors import CollapseError, DataError, InfrastructureError, ModelError, SignalError, StorageError
from sod.evaluate import evaluate, summary
from sod.guards import Alarm, Guards
from sod.hints import leaks
from sod.learner import Learner
from sod.memory import check as check_memory
from sod.metrics import lost_metrics, memory_gib, sampler_metrics, signal_metrics, tool_seconds, trajectory_metrics
from sod.models import LongestSequence, Policy, Sampler
from sod.models.copies import StudentCopy
from sod.models.engine import check_context, load_student, open_policy
from sod.models.hf import HFModel
from sod.models.worker import Thread
from sod.optimizer import Optimizer
from sod.records import trajectory_record
from sod.rewards import make_rewards, reward_for
from sod.rollouts import Collector, Harvest
from sod.rubrics import RubricJudge
from sod.runs import RunDirectory, read_records
from sod.sandbox import Sandbox, make_sandbox
from sod.teachers import PROBE_EPISODES, Share, Teacher, Teachers, open_teachers, teachers_of
from sod.tools import CHANGED, source_digest
from sod.types import Problem

MIN_LOST = 2
"""So many lost trajectories are bad luck, whatever their share."""

MAX_LOST_SHARE = 0.25
"""An update that lost a larger share is not learned from."""

NUM_HINTS_READ = 200
"""Hints that are searched for the answer at the start."""

ROUNDING = 1e-5
"""Nats by which float32 log-probs of one model differ between two forwards: a smaller teacher term is no signal."""

Listener = Callable[[str, Mapping[str, Any]], None]
"""Told of events as they happen: ("update", metrics), ("evaluation", numbers), ("alarm", {"message": ...}), ..."""


def train(config: TrainConfig, *, listener: Listener = lambda _event, _values: None) -> None:
    """Run `config` to its end, or continue it from its last checkpoint; a finished run is left as it is.

    Ctrl-C writes a checkpoint of the last whole update and leaves. Raises the errors of `sod.errors`.
    """
    with RunDirectory.open(config.run, config_json=dump(config), command="train", free=FREE) as run:
        if run.finished:
            listener("finished", {"run": config.run})
            return
        for message in (*unread(config), *check_memory(config)):
            listener("warning", {"message": message})
        asyncio.run(_train(config, run, listener))
        run.finish(f"{config.update.num_updates} updates")


def _load(data: DataConfig, listener: Listener) -> ProblemSet:
    problems = load_problems(data)
    if problems.skipped:
        listener("skipped", problems.left_out)
    return problems


def _load_both(config: TrainConfig, listener: Listener) -> tuple[Sequence[Problem], Sequence[Problem]]:
    """Training problems and those of the evaluation, with what is to be said of them."""
    problems = _load(config.data, listener)
    _refuse_private(problems)
    held_out = _load(config.evaluation, listener) if config.evaluation else ()
    _warn_of_shared(problems, held_out, listener)
    if config.teaching.shows == "hint":
        _warn_of_leaks(problems, listener)
    return problems, held_out


def _that_fit(problems: Sequence[Problem], agent: Agent, listener: Listener) -> Sequence[Problem]:
    """The problems whose prompt is not too long; how many are left out is said. Raises DataError when none fits."""
    fitting = [problem for problem in problems if agent.fits(problem)]
    if len(fitting) < len(problems):
        longest = agent.limits.max_prompt_tokens
        message = f"{len(problems) - len(fitting)} of {len(problems)} problems left out: over {longest} tokens"
        listener("warning", {"message": message})
    if not fitting:
        raise DataError(f"some problem must fit agent.max_prompt_tokens = {agent.limits.max_prompt_tokens}, got none")
    return fitting


def _refuse_private(problems: ProblemSet) -> None:
    """A run of training records what it trains on, in plain text."""
    if problems.private:
        raise DataError(f"{problems.name}: texts of these problems must not be shown; evaluate on them with `sod eval`")


def _warn_of_shared(problems: Sequence[Problem], held_out: Sequence[Problem], listener: Listener) -> None:
    """A student that was trained on what it is evaluated on looks better than it is."""
    shared = shared_questions(problems, held_out)
    if shared:
        first = ", ".join(shared[:3])
        message = f"{len(shared)} of {len(problems)} training problems are also in the evaluation ({first}, ...)"
        listener("warning", {"message": message})


def _warn_of_leaks(problems: Sequence[Problem], listener: Listener) -> None:
    """A hint that holds the answer makes a teacher that was told it. Comparing takes a while, so the first are read."""
    read = [problem for problem in problems if problem.hint][:NUM_HINTS_READ]
    told = [problem.id for problem in read if leaks(problem.hint, problem)]
    if told:
        message = (
            f"{len(told)} of the first {len(read)} hints hold the final answer ({', '.join(told[:3])}, ...): the "
            "teacher is told it; `sod hints` writes hints that do not"
        )
        listener("warning", {"message": message})


def _warn_of_unused(teachers: Teachers | None, problems: Sequence[Problem], listener: Listener) -> None:
    for source in () if teachers is None else teachers.unused(problems):
        listener("warning", {"message": f"no problem has the source {source!r} of [teachers.{source}]"})


async def _train(config: TrainConfig, run: RunDirectory, listener: Listener) -> None:
    """Open everything that a run needs, check it, and run the loop."""
    checkpoint = run.latest_checkpoint()
    problems, held_out = _load_both(config, listener)
    tokenizer = load_tokenizer(config.student.path)
    latest = config.student.model_copy(update={"path": str(checkpoint / "model")}) if checkpoint else config.student
    learner = _learner(config, latest)
    apart = config.update.staleness > 0
    async with (
        open_policy(latest, learner.student, sampling=config.sampling, apart=apart) as policy,
        open_teachers(config, learner.student, tokenizer) as models,
        make_sandbox(config.sandbox) as sandbox,
        _open_judge(config, run) as judge,
    ):
        run.note("sandbox", sandbox.layers)
        listener("sandbox", {"layers": sandbox.layers})
        agent = agent_of(config, policy, tokenizer, sandbox)
        if not run.note("tool", source_digest(config.tool)):
            listener("warning", {"message": CHANGED})
        if config.data.too_long == "leave_out":
            problems = _that_fit(problems, agent, listener)
        if isinstance(models.default, HFModel):
            learner = replace(learner, teacher=models.default)
        teachers = teachers_of(models, config, tokenizer=tokenizer, chat=agent.chat)
        collector = Collector(
            agent=agent,
            problems=problems,
            rewards=make_rewards(config.rewards, sandbox=sandbox, shape_to=config.agent.max_response_tokens),
            teachers=teachers,
            seed=config.seed,
            sizes=config.update,
            judge=judge,
        )
        longest = check_problems(problems, held_out, collector=collector, models=(learner.student, policy))
        shares = () if teachers is None else teachers.shares(problems)
        for share in shares:
            check_share(share, agent, model=models.of(share.problems[0].source), longest_prompts=longest)
        _warn_of_unused(teachers, problems, listener)
        loop = TrainingLoop(
            config=config,
            run=run,
            listener=listener,
            tokenizer=tokenizer,
            held_out=held_out,
            learner=learner,
            policy=policy,
            collector=collector,
            student_copy=models.student_copy,
        )
        if checkpoint:
            loop.restore(checkpoint)
        else:
            run.truncate_after(-1)  # a run that ended before its first checkpoint starts again
        for share in shares if loop.done == 0 else ():
            probe = agent_of(config, models.of(share.problems[0].source), tokenizer, sandbox)
            gap = await check_teacher(share.teacher.unprivileged, probe, share.problems, config=config)
            if models.student_copy is None:  # a student that is the teacher differs by about the gap
                loop.noise = max(loop.noise, 2.0 * gap)
        await loop.run_to_end()


def _learner(config: TrainConfig, latest: ModelConfig) -> Learner:
    """The student with its optimizer. `latest` is where its weights are now: the config's, or a checkpoint's."""
    student = load_student(
        config.student if config.lora else latest,  # additions are in the optimizer's state, beside their base
        lora=config.lora,
        gradient_checkpointing=config.update.gradient_checkpointing,
        seed=config.seed,
    )
    num_steps = config.update.num_updates * config.update.optimizer_steps
    optimizer = Optimizer(student.module, config=config.optimizer, num_steps=num_steps)
    return Learner(config=config, student=student, optimizer=optimizer)


def check_problems(
    problems: Sequence[Problem],
    held_out: Sequence[Problem],
    *,
    collector: Collector,
    models: tuple[LongestSequence, LongestSequence],
) -> Mapping[str, int]:
    """What cannot be played or graded is found at the start, not at update 90. Raises DataError or ModelError.

    `models` are the student and what samples in its place. Returns the longest prompt in tokens of the training
    problems by source: each is rendered once.
    """
    agent, longest, longest_held_out = collector.agent, dict[str, int](), 0
    for problem in problems:
        reward_for(collector.rewards, problem)
        longest[problem.source] = max(longest.get(problem.source, 0), len(agent.prompt(problem)))
    for problem in held_out:
        reward_for(collector.rewards, problem)
        longest_held_out = max(longest_held_out, len(agent.prompt(problem)))
    limit = agent.limits.max_response_tokens
    for name, model in zip(("the student", "its engine"), models, strict=True):
        longest_prompt = max(longest_held_out, *longest.values())
        check_context(model, longest_prompt=longest_prompt, max_response_tokens=limit, name=name)
    return longest


def check_share(share: Share, agent: Agent, *, model: LongestSequence, longest_prompts: Mapping[str, int]) -> None:
    """A teacher has what it is to be shown of its problems, and room for it. Raises DataError or ModelError.

    `longest_prompts` of the student in tokens, by source: all problems of a source have one teacher.
    """
    longest = max(longest_prompts[problem.source] for problem in share.problems)
    longest = max(longest, share.teacher.longest_prompt(share.problems))
    limit = agent.limits.max_response_tokens
    check_context(model, longest_prompt=longest, max_response_tokens=limit, name=share.name)


@asynccontextmanager
async def _open_judge(config: TrainConfig, run: RunDirectory) -> AsyncIterator[RubricJudge | None]:
    """Who makes rewards of rubrics, if somebody does."""
    if config.rubrics is None:
        yield None
        return
    async with RubricJudge(
        config.rubrics,
        cache=Path(config.rubrics.cache or run.path / "rubrics"),
        ledger=run.path / "rubrics_spent.jsonl",
        record=lambda group: run.append("rubrics", group),
    ) as judge:
        yield judge


def agent_of(config: TrainConfig, sampler: Sampler, tokenizer: Tokenizer, sandbox: Sandbox) -> Agent:
    """The config's agent with a given model in the student's place."""
    return make_agent(
        sampler=sampler,
        tokenizer=tokenizer,
        sandbox=sandbox,
        limits=config.agent,
        tool=config.tool,
        sampling=config.sampling,
    )


async def check_teacher(teacher: Teacher, agent: Agent, problems: Sequence[Problem], *, config: TrainConfig) -> float:
    """Let the teacher play a few episodes and score its own tokens: the mean gap must be about zero.

    A gap says that sampler and scorer disagree (template, temperature, precision, lost weights), and that every
    divergence of the run would be off by as much. Returns the gap in nats; raises SignalError above the limit.
    """
    limit = config.guards.teacher_self_gap
    if limit == 0.0:
        return 0.0
    trajectories = await run_all(
        agent.run(problem, seed=draw_seed("probe", config.seed, problem.id), key="probe")
        for problem in problems[:PROBE_EPISODES]
    )
    gaps: list[float] = []
    for trajectory in trajectories:
        if not trajectory.sampled_positions:
            raise InfrastructureError(f"the teacher could not play an episode: {trajectory.detail}")
        scored = await teacher.logprobs(trajectory)
        sampled = [trajectory.rollout_logprobs[position] for position in trajectory.sampled_positions]
        gaps += [abs(mine - own) for mine, own in zip(scored, sampled, strict=True)]
    gap = sum(gaps) / len(gaps)
    if gap > limit:
        raise SignalError(
            f"the teacher's log-probs of its own samples must agree with how it sampled them within {limit:g} nats, "
            f"got a mean gap of {gap:.3g}; check its precision and engine, or set guards.teacher_self_gap"
        )
    return gap


@dataclass(kw_only=True)
class TrainingLoop:
    """One training run: what stays from update to update."""

    config: TrainConfig
    run: RunDirectory
    listener: Listener
    tokenizer: Tokenizer
    held_out: Sequence[Problem]
    learner: Learner
    policy: Policy
    collector: Collector
    done: int = 0
    """Updates that are whole: learned from and recorded."""
    evaluated: int = -1
    """The last update that was evaluated after; 0 is the start, -1 none."""
    noise: float = ROUNDING
    """Teacher terms up to this, in nats, are rounding: student and teacher are one model."""
    student_copy: StudentCopy | None = None
    """The student as its own teacher."""
    taught: int = 0
    """Updates that the student's copy has followed."""
    timing: dict[str, float] = field(default_factory=dict)
    ahead: asyncio.Task[Harvest] | None = None
    """The next update's trajectories, under way while this one is learned."""

    def __post_init__(self) -> None:
        self.thread = Thread("sod-learning")
        self.guards = Guards(config=self.config.guards)

    async def run_to_end(self) -> None:
        """All remaining updates. When it is cancelled (Ctrl-C) the last whole update is saved first."""
        try:
            await self._maybe_evaluate()
            while self.done < self.config.update.num_updates:
                await self._update(self.done + 1)
                await self._maybe_evaluate()
                self._maybe_save()
        except StorageError:
            raise
        except (asyncio.CancelledError, CollapseError, InfrastructureError):
            self.save()  # these come between updates, when the weights are those of the last whole one
            raise
        finally:
            if self.ahead is not None:
                self.ahead.cancel()
                await asyncio.gather(self.ahead, return_exceptions=True)

    async def _update(self, number: int) -> None:
        self.timing = {}
        with self._timed("total_s"):
            with self._timed("rollout_s"):
                harvest = await self._harvest(number)
            self._require_most(number, harvest)
            metrics = await self._finish(number, harvest)
            self._teach()
            with self._timed("weights_s"):
                await self.policy.update_weights(self.learner.student.module)
        tools = tool_seconds([rollout.trajectory for rollout in harvest.rollouts])
        memory = _rounded(memory_gib())
        self.run.append(
            "timing", {"update": number, **_rounded(self.timing), "tools": _rounded(tools), "memory": memory}
        )
        of = {"update": number, "num_updates": self.config.update.num_updates}
        self.listener("update", {**metrics, **self.timing, **of, "memory": memory})
        self._heed(self.guards.check(metrics))

    def _teach(self) -> None:
        """The student's copy follows the latest update, once; nothing is scored meanwhile."""
        if self.student_copy is not None and self.taught < self.done:
            self.student_copy.update(self.learner.student.module)
            self.taught = self.done

    def _require_most(self, number: int, harvest: Harvest) -> None:
        """What survives a dying engine are the short trajectories, and of their groups a part: no update is made of
        them."""
        lost, total = len(harvest.dropped), len(harvest.dropped) + len(harvest.rollouts)
        if not harvest.rollouts or lost > max(MIN_LOST, MAX_LOST_SHARE * total):
            self._record_lost(number, harvest)
            raise InfrastructureError(
                f"update {number}: {lost} of {total} trajectories were lost, so nothing was learned from the rest; the "
                f"first because: {harvest.dropped[0].detail}"
            )

    async def _harvest(self, number: int) -> Harvest:
        """The update's trajectories; those that were begun during the update before, if they were."""
        ahead, self.ahead = self.ahead, None
        return await (ahead or self.collector.collect(number))

    async def _finish(self, number: int, harvest: Harvest) -> dict[str, float]:
        """Learn from the trajectories and record them: all or nothing, also when it is cancelled meanwhile.

        With staleness it happens in a thread, while the next trajectories are sampled with the old weights; they end
        before these weights go to the sampler, so that none is older than one update.
        """
        if not self.config.update.staleness:
            await self.policy.sleep()
            return self._learn_and_record(number, harvest)
        if number < self.config.update.num_updates:
            self.ahead = asyncio.create_task(self.collector.collect(number + 1))
        metrics = await self.thread.run(self._learn_and_record, number, harvest)
        if self.ahead is not None:
            with self._timed("straggler_s"):
                await asyncio.wait([self.ahead])
        return metrics

    def _learn_and_record(self, number: int, harvest: Harvest) -> dict[str, float]:
        with self._timed("learn_s"):
            metrics, credit = self._learn(number, harvest)
        with self._timed("record_s"):
            self._record(number, metrics, harvest, credit)
        self.done = number
        return metrics

    def _learn(self, number: int, harvest: Harvest) -> tuple[dict[str, float], Credit]:
        """One update of the weights, and what it looked like."""
        rollouts = harvest.rollouts
        scope = self.config.weights.scope
        batch = collate(
            rollouts,
            need_teacher=self.config.learns_from_teacher,
            call_mask=None if scope == "step" else self.collector.agent.chat.call_mask,
        )
        credit = self.learner.credit(batch, update=number)
        metrics = trajectory_metrics([r.trajectory for r in rollouts], [r.score for r in rollouts])
        metrics |= lost_metrics(harvest.lost, num_calls=metrics["num_calls"])
        if self.collector.judge is not None:
            metrics["unjudged"] = len(harvest.unjudged)
        if self.collector.teachers is not None:
            metrics |= credit.trust.metrics
            metrics |= signal_metrics(
                batch,
                student_logprobs_BT=credit.student_logprobs_BT,
                divergence_BK=credit.divergence_BK,
                weight_BK=credit.weight_BK,
                term_BT=credit.weight_BT * credit.log_ratio_BT,
                correct_B=torch.tensor([rollout.score.correct for rollout in rollouts]),
                control_token_ids=self.collector.agent.chat.control_token_ids,
            )
        self._require_disagreement(number, batch, credit)
        metrics |= sampler_metrics(
            batch,
            [self.policy.policy_version - rollout.trajectory.policy_version for rollout in rollouts],
            student_logprobs_BT=credit.student_logprobs_BT,
            importance_BT=credit.importance_BT,
        )
        metrics |= self.learner.learn(batch, credit, seed=draw_seed("deal", self.config.seed, number))
        self._remember(credit.trust)
        return metrics, credit

    def _require_disagreement(self, number: int, batch: Batch, credit: Credit) -> None:
        """A student that is its own teacher learns nothing. Weights do not matter: a rule may make all of them 0."""
        if not self.config.learns_from_teacher:
            return
        gap = float((batch.teacher_logprobs_BT - credit.student_logprobs_BT)[batch.mask_BT].abs().mean())
        if gap <= (self.noise if number == 1 else 0.0):
            raise SignalError(
                f"the teacher must disagree with the student somewhere, got a mean log-ratio of {gap:.2g} nats, which "
                "is rounding; is teacher.path the student itself, or is a copy shown nothing that it can use?"
            )

    def _remember(self, trust: Trust) -> None:
        self.learner = replace(self.learner, trust=trust)

    async def _maybe_evaluate(self) -> None:
        every = self.config.update.evaluate_every
        if not every or self.done % every or self.evaluated == self.done:
            return
        self.timing = {}
        with self._timed("evaluate_s"):
            evaluation = await evaluate(
                self.collector.agent,
                self.held_out,
                rewards=self.collector.rewards,
                samples=self.config.evaluation_samples,
                seed=self.config.seed,
            )
        # Comparing answers for the vote may wait for another process.
        numbers = {"update": self.done, **await asyncio.to_thread(summary, evaluation)}
        self.run.append("metrics", {"update": self.done, "evaluation": numbers})
        self.run.append("timing", {"update": self.done, "evaluate_s": round(self.timing["evaluate_s"], 4)})
        self.evaluated = self.done
        self.listener("evaluation", numbers)

    # ---- records and alarms

    def _record(self, number: int, metrics: Mapping[str, float], harvest: Harvest, credit: Credit) -> None:
        has_teacher = self.collector.teachers is not None
        for row, rollout in enumerate(harvest.rollouts):
            steps = slice(0, rollout.trajectory.num_steps)
            record = trajectory_record(
                rollout.trajectory,
                update=number,
                score=rollout.score,
                divergence=credit.divergence_BK[row, steps].tolist() if has_teacher else None,
                weight=credit.weight_BK[row, steps].tolist() if has_teacher else None,
                teacher_logprobs=rollout.teacher_logprobs,
                teacher_entropies=rollout.teacher_entropies,
            )
            self.run.append("trajectories", {"group": rollout.group, **record})
        self._record_lost(number, harvest)
        self.run.append("metrics", {"update": number, **metrics})

    def _record_lost(self, number: int, harvest: Harvest) -> None:
        for trajectory in harvest.dropped:
            self.run.append("trajectories", trajectory_record(trajectory, update=number))

    def _heed(self, alarms: Sequence[Alarm]) -> None:
        """Warn of alarms once; stop on those that say so."""
        action = self.config.guards.on_alarm
        for alarm in alarms:
            if not alarm.fatal and (action == "off" or (action == "warn" and alarm.ongoing)):
                continue
            self.run.append("metrics", {"update": self.done, "alarm": alarm.rule, "message": alarm.message})
            self.listener("alarm", {"update": self.done, "rule": alarm.rule, "message": alarm.message})
            if alarm.fatal or action == "stop":
                raise CollapseError(f"stopped at update {self.done}: {alarm.message}")

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timing[name] = time.perf_counter() - start

    # ---- checkpoints

    def _maybe_save(self) -> None:
        every = self.config.update.save_every
        if self.done == self.config.update.num_updates or (every and self.done % every == 0):
            self.save()

    def save(self) -> None:
        """Write a checkpoint of the updates done so far: model, tokenizer, optimizer, an averaged teacher, count."""
        self._teach()  # it has not, when the run was stopped between learning and this
        with self.run.checkpoint(f"update-{self.done:06d}") as folder:
            self.learner.student.save(folder / "model")
            self.tokenizer.save_pretrained(str(folder / "model"))
            self.learner.optimizer.save(folder / "optimizer.safetensors")
            if self.student_copy is not None:
                self.student_copy.save(folder / "teacher.safetensors")
            (folder / "state.json").write_text(json.dumps({"updates_done": self.done}), encoding="utf-8")

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint: optimizer, count and the guards' memory; later records are dropped."""
        try:
            self.done = int(json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["updates_done"])
            self.learner.optimizer.load(checkpoint / "optimizer.safetensors")
            if self.student_copy is not None:
                self.student_copy.load(checkpoint / "teacher.safetensors")
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ModelError(
                f"{checkpoint} must be a whole checkpoint, got: {error}; delete that folder and run the same command "
                "again to go on from the one before"
            ) from error
        self.taught = self.done
        self.run.truncate_after(self.done)
        for record in read_records(self.run.path / "metrics.jsonl"):
            if "reward" in record:
                self.guards.check(record)
            if "trust_after_failure" in record:
                self._remember(self.learner.trust.after_metrics(record))
            if "evaluation" in record:
                self.evaluated = record["update"]
        self.listener("resumed", {"update": self.done})


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in seconds.items()}
