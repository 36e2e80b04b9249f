"""Is d_k related to what the teacher's supervision is worth at that step? Measured by letting the teacher take it.

    python examples/miniature/value.py                     # runs/miniature -> docs/results/value.md, value.json

The trajectories are those of the start student's evaluation. At every step k of one:

- **own**: the student goes on from what stood before the step, n times: the share that ends right.
- **taught**: the teacher takes that one step, the student all that follow, n times, with the same draws.
- **taken**: the student goes on after the step that it took: `own` of step k + 1; of a last step, its outcome.

worth = taught - own: what the teacher is worth where the student stands. worth against the step taken = taught - taken:
what the teacher would have changed about the very tokens that d_k is made of. A step has a large gap when its d_k is
above HIGH times the median d_1 (`sod.report.patterns`). The teacher rescues it when taught - taken is at least
CHANGE, and harms it when it is at most -CHANGE. Much of that is the draw and not the teacher: a step that went wrong
goes better on any new try. So the same is counted of the student's own new try, own - taken, beside it. Only a step
whose taken is at most 1 - CHANGE can be rescued at all, and only one whose taken is at least CHANGE be harmed.

A dialogue so far is given to the agent as messages. A step before which these do not render to the very tokens of the
trajectory (a call that nobody could read) is left out and counted. Steps go to OUT/value/SIZE/WORLD.jsonl, a line each;
the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, TypeAlias

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import torch  # noqa: E402
from outcomes import SHARED, WORLDS, Study, command_line, read_study  # noqa: E402

from sod.agent import Agent, draw_seed, make_agent, run_all  # noqa: E402
from sod.algorithm import step_weights  # noqa: E402
from sod.chat import load_tokenizer  # noqa: E402
from sod.config import EvalConfig, ModelConfig, SamplingConfig, parse  # noqa: E402
from sod.errors import DataError, InfrastructureError, SodError  # noqa: E402
from sod.evaluate import grade_patiently  # noqa: E402
from sod.models import Sampler, Scorer  # noqa: E402
from sod.models.engine import open_model  # noqa: E402
from sod.records import score_of, trajectory_of  # noqa: E402
from sod.report.patterns import HIGH  # noqa: E402
from sod.results import load_sets  # noqa: E402
from sod.rewards import Reward, make_rewards  # noqa: E402
from sod.runs import read_json, read_records, read_trajectories  # noqa: E402
from sod.sandbox import make_sandbox  # noqa: E402
from sod.types import Completion, Message, Problem, StopReason, ToolCall, ToolStatus, Trajectory, Turn  # noqa: E402

CHANGE = 0.5
"""Share of continuations whose end must turn for a step to count as rescued or harmed."""
CHANGES = {"rescued": 1, "harmed": -1}
"""Which way the step's worth must reach CHANGE."""
AT_ONCE = 4
"""Trajectories measured at once."""
MAX_LEFT_OUT = 0.1
"""More steps whose dialogue does not render to their tokens are no accident."""
NUM_BINS = 5
NUM_RESAMPLES = 1000
WHERE = ("before", "right after", "later")
"""A step's place: no call failed before it, that of the step before did, or an earlier one's."""
PLACES = {"all": "all steps", "before": "before a failed call", "right after": "right after one", "later": "later"}

Line: TypeAlias = Mapping[str, Any]


# ---- going on from a step


class Relay:
    """A sampler whose first turn of a trajectory is the teacher's, and all others the student's."""

    def __init__(self, first: Sampler, then: Sampler) -> None:
        self._first, self._then = first, then
        self._begun: set[str] = set()

    @property
    def policy_version(self) -> int:
        """The student's."""
        return self._then.policy_version

    async def sample(
        self,
        token_ids: Sequence[int],
        *,
        max_tokens: int,
        stop_token_ids: Collection[int],
        sampling: SamplingConfig,
        trajectory_id: str,
        seed: int,
    ) -> Completion:
        """One turn of whose turn it is."""
        model = self._then if trajectory_id in self._begun else self._first
        self._begun.add(trajectory_id)
        return await model.sample(
            token_ids,
            max_tokens=max_tokens,
            stop_token_ids=stop_token_ids,
            sampling=sampling,
            trajectory_id=trajectory_id,
            seed=seed,
        )

    def release(self, trajectory_id: str) -> None:
        """The trajectory is over for both."""
        self._begun.discard(trajectory_id)
        self._first.release(trajectory_id)
        self._then.release(trajectory_id)


def dialogue(problem: Problem, turns: Sequence[Turn]) -> tuple[Message, ...]:
    """The problem, and what was said and seen in these turns, as messages."""
    messages: list[Message] = [*problem.messages]
    for turn in turns:
        messages.append(_said(turn))
        messages += [{"role": "tool", "content": result.text} for result in turn.results]
    return tuple(messages)


def _said(turn: Turn) -> Message:
    """A turn whose calls can all be read has them apart; any other is its text."""
    calls = [
        {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
        for call in turn.calls
        if isinstance(call, ToolCall)
    ]
    if not calls or len(calls) != len(turn.calls):
        return {"role": "assistant", "content": turn.text}
    content = turn.text.partition("<tool_call>")[0].removesuffix("\n")
    return {"role": "assistant", "content": content, "tool_calls": calls}


def agent_at(agent: Agent, trajectory: Trajectory, step: int) -> Agent:
    """An agent that has of each limit what the trajectory has left of it before a step (from 0)."""
    limits, turns = agent.limits, trajectory.turns
    start = turns[step].start
    malformed = sum(result.status is ToolStatus.MALFORMED_CALL for turn in turns[:step] for result in turn.results)
    left = {
        "max_turns": limits.max_turns - step,
        "max_prompt_tokens": start,
        "max_response_tokens": limits.max_response_tokens - (start - trajectory.num_prompt_tokens),
        "max_malformed_calls": limits.max_malformed_calls - malformed,
    }
    return replace(agent, limits=limits.model_copy(update=left))


def problem_at(agent: Agent, problem: Problem, trajectory: Trajectory, step: int) -> Problem | None:
    """The problem of going on before a step; None when its messages are not the trajectory's tokens."""
    going_on = replace(problem, messages=dialogue(problem, trajectory.turns[:step]))
    prefix = trajectory.token_ids[: trajectory.turns[step].start]
    return going_on if agent.chat.prompt_ids(going_on.messages) == prefix else None


# ---- measuring


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What measuring needs: the agent of the student, the teacher as scorer, and both as one sampler."""

    agent: Agent
    relay: Relay
    teacher: Scorer
    rewards: Mapping[str, Reward]
    samples: int
    seed: int


async def measure(bench: Bench, problem: Problem, trajectory: Trajectory, *, correct: bool) -> list[Line]:
    """A line for every step of a trajectory; `own` and `taught` are None where it was left out."""
    divergences = await step_divergences(bench.teacher, trajectory)
    weights = step_weights(torch.tensor([divergences], dtype=torch.float64))[0].tolist()
    found = await run_all(_at_step(bench, problem, trajectory, step) for step in range(trajectory.num_steps))
    return [
        {
            "problem": problem.id,
            "sample": trajectory.sample,
            "step": step + 1,
            "divergence": divergences[step],
            "weight": weights[step],
            "where": place_of(trajectory.turns[:step]),
            "calls": bool(trajectory.turns[step].calls),
            "own": found[step][0],
            "taught": found[step][1],
            "last": step + 1 == trajectory.num_steps,
            "correct": correct,
        }
        for step in range(trajectory.num_steps)
    ]


async def step_divergences(teacher: Scorer, trajectory: Trajectory) -> list[float]:
    """d_k (eq 6) by step, against the log-probs that were recorded when the student sampled."""
    positions = trajectory.sampled_positions
    logprobs = await teacher.score(trajectory.token_ids, positions=positions)
    gaps: dict[int, list[float]] = defaultdict(list)
    for position, logprob in zip(positions, logprobs, strict=True):
        gaps[trajectory.step[position]].append(abs(trajectory.rollout_logprobs[position] - logprob))
    return [fmean(gaps[step]) for step in sorted(gaps)]


def place_of(turns: Sequence[Turn]) -> str:
    """One of WHERE, by the turns before a step."""
    failed = [turn.failed for turn in turns]
    return "before" if not any(failed) else "right after" if failed[-1] else "later"


async def _at_step(
    bench: Bench, problem: Problem, trajectory: Trajectory, step: int
) -> tuple[list[int], list[int]] | tuple[None, None]:
    """Right or wrong (1 or 0) of each continuation, the student's own and the taught ones."""
    going_on = problem_at(bench.agent, problem, trajectory, step)
    if going_on is None:
        return None, None
    agent = agent_at(bench.agent, trajectory, step)
    own = [_play(bench, agent, going_on, key=f"own-{trajectory.sample}-{step}", number=n) for n in range(bench.samples)]
    taught_agent, key = replace(agent, sampler=bench.relay), f"taught-{trajectory.sample}-{step}"
    taught = [_play(bench, taught_agent, going_on, key=key, number=n) for n in range(bench.samples)]
    ends = await run_all([*own, *taught])
    return ends[: bench.samples], ends[bench.samples :]


async def _play(bench: Bench, agent: Agent, problem: Problem, *, key: str, number: int) -> int:
    """One continuation. Both kinds have the same seeds, so the same failures of the tool meet them at this step."""
    seed = draw_seed("value", bench.seed, problem.id, key.partition("-")[2], number)
    ended = await agent.run(problem, sample=number, seed=seed, key=key)
    if ended.stop_reason is StopReason.INFRASTRUCTURE:
        raise InfrastructureError(f"a continuation must not be lost to the world, got: {ended.detail}; run it again")
    return int((await grade_patiently(bench.rewards, problem, ended)).correct)


# ---- one world


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is to be measured."""

    study: Study
    size: str
    world: str
    num_problems: int
    samples: int
    seed: int

    @property
    def file(self) -> Path:
        """Where its steps lie."""
        return self.study.out / "value" / self.size / f"{self.world}.jsonl"


def start_run(order: Order) -> Path:
    """The evaluation of the start student, of the lowest seed. Raises DataError when there is none."""
    runs = [order.study.out / "start" / order.size / f"seed-{seed}" for seed in order.study.seeds]
    for run in runs:
        if (run / "evaluation.json").exists():
            return run
    raise DataError(f"{runs[0]} must hold the start's evaluation, got none; run study.py first")


def teacher_of(order: Order) -> Path:
    """The last checkpoint of the world's teacher. Raises DataError when there is none."""
    folder = order.study.out / "teachers" / order.world / "checkpoints"
    found = sorted(folder.glob("update-*/model"))
    if not found:
        raise DataError(f"{folder} must hold a checkpoint of the teacher, got none; run study.py first")
    return found[-1]


async def measure_world(order: Order, *, say: Callable[[str], None] = print) -> float:
    """Measures what is not on disk yet, a group of trajectories at a time. Returns the median d_1 of the start: of the
    first samples of all problems, measured or not."""
    run, teacher_path = start_run(order), teacher_of(order)
    config = parse(EvalConfig, read_json(run / "config.json"))
    settings = {
        "samples": order.samples,
        "seed": order.seed,
        "student": _sum(Path(config.model.path)),
        "teacher": _sum(teacher_path),
        "trajectories": str(run.relative_to(order.study.out)),
    }
    done = {(each["problem"], each["sample"]) for each in _lines(order.file, settings) if each["last"]}
    firsts = _first_samples(run, [problem for each in load_sets(config) for problem in each])
    todo = [each for each in firsts[: order.num_problems] if (each[0].id, each[1].sample) not in done]
    teacher_config = ModelConfig(path=str(teacher_path), device=config.model.device)
    async with (
        open_model(config.model, sampling=config.sampling, scores=False) as student,
        open_model(teacher_config, sampling=config.sampling, scores=True) as teacher,
        make_sandbox(config.sandbox) as sandbox,
    ):
        agent = make_agent(
            sampler=student,
            tokenizer=load_tokenizer(config.model.path),
            sandbox=sandbox,
            limits=config.agent,
            tool=config.tool,
            sampling=config.sampling,
        )
        rewards = make_rewards(config.rewards, sandbox=sandbox)
        relay = Relay(teacher, student)
        bench = Bench(
            agent=agent, relay=relay, teacher=teacher, rewards=rewards, samples=order.samples, seed=order.seed
        )
        for start in range(0, len(todo), AT_ONCE):
            group = todo[start : start + AT_ONCE]
            for lines in await run_all(measure(bench, p, t, correct=correct) for p, t, correct in group):
                _append(order.file, lines)
            say(f"{order.world}: {len(done) + start + len(group)} of {len(done) + len(todo)} trajectories")
        divergences = await run_all(step_divergences(teacher, trajectory) for _, trajectory, _ in firsts)
        return median(each[0] for each in divergences)


def _first_samples(run: Path, problems: Sequence[Problem]) -> list[tuple[Problem, Trajectory, bool]]:
    """The first graded sample of each problem with its verdict, in the order of problems."""
    found: dict[str, tuple[Trajectory, bool]] = {}
    for record in read_trajectories(run):
        if record["sample"] == 0 and "score" in record:
            found[record["problem_id"]] = (trajectory_of(record), score_of(record).correct)
    return [(problem, *found[problem.id]) for problem in problems if problem.id in found]


def _sum(model: Path) -> str:
    """Which weights they were."""
    digest = hashlib.sha256()
    for path in sorted(model.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _lines(path: Path, settings: Mapping[str, Any]) -> list[Line]:
    """Steps on disk; a torn last line is cut off. Raises DataError where they were measured with other settings."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _append(path, [{"settings": dict(settings)}])
    text = path.read_bytes()
    if not text.endswith(b"\n"):
        path.write_bytes(text[: text.rfind(b"\n") + 1])
    records: list[Line] = [*read_records(path)]
    first, *lines = records
    if first.get("settings") != dict(settings):
        raise DataError(
            f"{path} must be of the same models, samples and seed, got {first.get('settings')} and now "
            f"{dict(settings)}; remove the file to measure anew"
        )
    return lines


def _append(path: Path, lines: Sequence[Line]) -> None:
    """All steps of a trajectory at once, so that one is there whole or not at all (but for a kill in this moment)."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(each) + "\n" for each in lines))


# ---- what comes out


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A measured step: shares of right ends."""

    problem: str
    where: str
    divergence: float
    weight: float
    own: float
    taught: float
    taken: float

    @property
    def worth(self) -> float:
        """Against a new try of the student."""
        return self.taught - self.own

    @property
    def worth_taken(self) -> float:
        """Against the step that it took."""
        return self.taught - self.taken

    @property
    def worth_own(self) -> float:
        """Of a new try of the student against the step that it took: what a draw alone is worth."""
        return self.own - self.taken


def steps_of(lines: Sequence[Line]) -> list[Step]:
    """Steps that have all three shares. Of a line twice on disk (a kill while writing) the last counts."""
    by_key = {(each["problem"], each["sample"], each["step"]): each for each in lines}
    steps = []
    for (problem, sample, step), each in by_key.items():
        following = by_key.get((problem, sample, step + 1), {}).get("own")
        taken = float(each["correct"]) if each["last"] else fmean(following) if following else None
        if each["own"] is not None and taken is not None:
            steps.append(
                Step(
                    problem=problem,
                    where=each["where"],
                    divergence=each["divergence"],
                    weight=each["weight"],
                    own=fmean(each["own"]),
                    taught=fmean(each["taught"]),
                    taken=taken,
                )
            )
    return steps


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation, ties at their mean rank. `[1 2 3], [2 4 9] -> 1`; NaN where one of them is constant."""
    ranks = torch.stack([_ranks(x), _ranks(y)])
    ranks = ranks - ranks.mean(1, keepdim=True)
    spread = float(ranks[0].norm() * ranks[1].norm())
    return float(ranks[0] @ ranks[1]) / spread if spread > 0.0 else float("nan")


def _ranks(values: Sequence[float]) -> torch.Tensor:
    """`[3 1 3] -> [2.5 1 2.5]`."""
    tensor = torch.tensor(values, dtype=torch.float64)
    _, place, count = torch.unique(tensor, return_inverse=True, return_counts=True)
    rank: torch.Tensor = (count.cumsum(0) - (count - 1) / 2.0)[place]
    return rank


def estimate(steps: Sequence[Step], statistic: Callable[[Sequence[Step]], float], *, seed: int = 0) -> dict[str, float]:
    """A statistic of steps with its 95 % interval: percentiles of a bootstrap over problems, all steps of one together.

    Resamples in which it is not defined are left out; without any the interval is NaN.
    """
    by_problem: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        by_problem[step.problem].append(step)
    groups = list(by_problem.values())
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(max(1, len(groups)), (NUM_RESAMPLES, len(groups)), generator=generator).tolist()
    values = [statistic([step for index in indices for step in groups[index]]) for indices in drawn] if groups else []
    values = sorted(value for value in values if not math.isnan(value))
    ends = (values[int(0.025 * len(values))], values[int(0.975 * len(values))]) if values else (float("nan"),) * 2
    return {"value": statistic(steps) if steps else float("nan"), "low": ends[0], "high": ends[1]}


def summary(lines: Sequence[Line], *, unit: float) -> dict[str, Any]:
    """All numbers of one world; `unit` is the start's median d_1. Raises DataError when too much was left out."""
    steps = steps_of(lines)
    num_left_out = sum(each["own"] is None for each in lines)
    if num_left_out > MAX_LEFT_OUT * len(lines) or not steps:
        raise DataError(
            f"the dialogues before steps must render to the trajectories' tokens, got {num_left_out} of {len(lines)} "
            "that do not; does the chat template show turns as they were sampled?"
        )
    large = [step for step in steps if step.divergence > HIGH * unit]
    return {
        "num_trajectories": len({(each["problem"], each["sample"]) for each in lines}),
        "num_steps": len(steps),
        "num_left_out": num_left_out,
        "unit": unit,
        "correlations": {name: _correlations(_at(steps, name)) for name in PLACES},
        "places": {name: _means(_at(steps, name)) for name in PLACES},
        "bins": list(_bins(steps)),
        "large": {name: _changes(_at(large, name)) for name in PLACES},
        "others": _changes([step for step in steps if step.divergence <= HIGH * unit]),
    }


def _at(steps: Sequence[Step], place: str) -> list[Step]:
    return [step for step in steps if place in ("all", step.where)]


def _correlations(steps: Sequence[Step]) -> dict[str, Any]:
    """Of d_k and w_k with both kinds of worth: {"divergence_worth": {"value": ...}, ...}."""
    found: dict[str, Any] = {"num_steps": len(steps)}
    for x in ("divergence", "weight"):
        for y in ("worth", "worth_taken"):
            found[f"{x}_{y}"] = estimate(steps, partial(_rank_correlation, x=x, y=y))
    return found


def _rank_correlation(steps: Sequence[Step], *, x: str, y: str) -> float:
    return spearman([getattr(step, x) for step in steps], [getattr(step, y) for step in steps])


def _means(steps: Sequence[Step]) -> dict[str, Any]:
    names = ("own", "taught", "taken")
    means = {name: fmean(getattr(step, name) for step in steps) if steps else float("nan") for name in names}
    return {
        "num_steps": len(steps),
        **means,
        "worth": estimate(steps, lambda some: fmean(step.worth for step in some)),
        "worth_taken": estimate(steps, lambda some: fmean(step.worth_taken for step in some)),
    }


def _bins(steps: Sequence[Step]) -> Iterator[dict[str, Any]]:
    """Of equal numbers of steps, by d_k."""
    ordered = sorted(steps, key=lambda step: step.divergence)
    for index in range(NUM_BINS):
        part = ordered[index * len(ordered) // NUM_BINS : (index + 1) * len(ordered) // NUM_BINS]
        if part:
            ends = {"low": part[0].divergence, "high": part[-1].divergence}
            yield {**ends, "weight": fmean(step.weight for step in part), **_means(part)}


def _changes(steps: Sequence[Step]) -> dict[str, Any]:
    """Shares that the teacher's step and the student's own new try rescue and harm, against the step taken."""
    found: dict[str, Any] = {
        "num_steps": len(steps),
        "num_rescuable": sum(step.taken <= 1.0 - CHANGE for step in steps),
        "num_harmable": sum(step.taken >= CHANGE for step in steps),
    }
    for kind, sign in CHANGES.items():
        by_teacher = partial(_share_changed, worth="worth_taken", sign=sign)
        by_own = partial(_share_changed, worth="worth_own", sign=sign)
        found[kind] = _share(steps, by_teacher)
        found[f"{kind}_own"] = _share(steps, by_own)
        found[f"{kind}_beyond"] = _share(steps, partial(_beyond, by_teacher=by_teacher, by_own=by_own))
    return found


def _share_changed(steps: Sequence[Step], *, worth: str, sign: int) -> float:
    return fmean(sign * getattr(step, worth) >= CHANGE for step in steps)


def _beyond(steps: Sequence[Step], *, by_teacher: Callable[..., float], by_own: Callable[..., float]) -> float:
    return by_teacher(steps) - by_own(steps)


def _share(steps: Sequence[Step], statistic: Callable[[Sequence[Step]], float]) -> dict[str, float]:
    """An estimate; without an interval where all resamples are alike, as those of none or all steps are."""
    found = estimate(steps, statistic)
    return found if found["low"] < found["high"] else {**found, "low": float("nan"), "high": float("nan")}


# ---- the page


def markdown(found: Mapping[str, Any]) -> str:
    """The page of a summary."""
    return "\n".join(_page(found)) + "\n"


def _page(found: Mapping[str, Any]) -> Iterator[str]:
    yield from ["# What one step of the teacher is worth", "", "<!-- Written by value.py; do not edit. -->", ""]
    yield f"- Command: `{found['command']}`"
    yield (
        f"- Student {found['size']} at the start, {found['samples']} continuations of each kind at every step, seed "
        f"{found['seed']}. own: the student goes on before the step; taught: the teacher takes the step, then the "
        "student goes on; taken: the student goes on after the step it took. worth = taught - own, against taken = "
        "taught - taken, in points of success."
    )
    yield f"- Intervals: 95 %, percentiles of {NUM_RESAMPLES} bootstrap resamples of problems."
    yield (
        "- One student and one teacher a world, one trajectory a problem: the intervals are of other problems only. "
        f"{SHARED} The preset `stable`, which was designed in an earlier version of this same world (dev/LOG.md), has "
        "no part in this page."
    )
    yield (
        "- Rescued and harmed are of the step taken, which is one draw: a step that went wrong goes better on any new "
        "try. What is the teacher's is what goes beyond the student's own new try beside it. Only a step with taken at "
        f"{100 - 100 * CHANGE:g} % or less can be rescued, only one at {100 * CHANGE:g} % or more harmed (both counts "
        "hold one at the edge). A share of none or all has no interval: no resample has another."
    )
    for world, numbers in found["worlds"].items():
        yield from _world_page(world, numbers)


def _world_page(world: str, numbers: Mapping[str, Any]) -> Iterator[str]:
    yield from ["", f"## Teacher: {world}", ""]
    yield (
        f"{numbers['num_trajectories']} trajectories, {numbers['num_steps']} steps; {numbers['num_left_out']} left "
        "out, because the dialogue before them does not render to their tokens. Large gap: d_k above "
        f"{HIGH * numbers['unit']:.3g} nats, {HIGH:g} times the start's median d_1."
    )
    yield from ["", "Spearman's rank correlation:", ""]
    pairs = ("divergence_worth", "divergence_worth_taken", "weight_worth", "weight_worth_taken")
    yield from _head(["steps", "n", "d_k, worth", "d_k, against taken", "w_k, worth", "w_k, against taken"])
    for name, each in numbers["correlations"].items():
        yield _row([PLACES[name], str(each["num_steps"]), *(_correlation(each[pair]) for pair in pairs)])
    yield from ["", "By place and by fifths of d_k (points):", ""]
    yield from _head(["steps", "n", "mean w_k", "own", "taught", "taken", "worth", "against taken"])
    for name, each in numbers["places"].items():
        yield _row([PLACES[name], str(each["num_steps"]), "-", *_worths(each)])
    for each in numbers["bins"]:
        name = f"d_k {each['low']:.3g} to {each['high']:.3g}"
        yield _row([name, str(each["num_steps"]), f"{each['weight']:.2f}", *_worths(each)])
    yield from [
        "",
        f"What the teacher's step changes, by {100 * CHANGE:g} points or more, against the step taken (%), and what "
        "the student's own new try of that step changes without any teacher:",
        "",
    ]
    heads = [
        (f"could be {kind} (n)", f"{kind} by the teacher", "by a new try", "teacher less new try") for kind in CHANGES
    ]
    yield from _head(["steps", "n", *heads[0], *heads[1]])
    for name, each in numbers["large"].items():
        yield _row([f"large gap, {PLACES[name]}", *_changed(each)])
    yield _row(["small gap, all steps", *_changed(numbers["others"])])


def _head(names: Sequence[str]) -> Iterator[str]:
    yield _row(names)
    yield _row(["---"] * len(names))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _correlation(each: Mapping[str, float]) -> str:
    return f"{each['value']:+.2f} [{each['low']:+.2f}, {each['high']:+.2f}]" if math.isfinite(each["low"]) else "-"


def _worths(each: Mapping[str, Any]) -> list[str]:
    if not each["num_steps"]:
        return ["-"] * 5
    shares = [f"{100 * each[name]:.1f}" for name in ("own", "taught", "taken")]
    worths = [each[name] for name in ("worth", "worth_taken")]
    return [*shares, *(f"{100 * w['value']:+.1f} [{100 * w['low']:+.1f}, {100 * w['high']:+.1f}]" for w in worths)]


def _changed(each: Mapping[str, Any]) -> list[str]:
    if not each["num_steps"]:
        return ["0", *["-"] * 8]
    cells = [str(each["num_steps"])]
    for kind, number in (("rescued", "num_rescuable"), ("harmed", "num_harmable")):
        cells += [str(each[number]), _share_text(each[kind]), _share_text(each[f"{kind}_own"])]
        cells.append(_share_text(each[f"{kind}_beyond"], sign="+"))
    return cells


def _share_text(found: Mapping[str, float], *, sign: str = "") -> str:
    """In %; without an interval where there is none."""
    value, low, high = (f"{100 * found[end]:{sign}.1f}" for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]" if math.isfinite(found["low"]) else value


def run_all_worlds(given: argparse.Namespace, *, command: str) -> dict[str, Any]:
    """Measures and sums up; the summary is also on disk, for figures.py."""
    study = read_study(given.out)
    found: dict[str, Any] = {"size": given.size, "samples": given.samples, "seed": given.seed, "worlds": {}}
    found["command"] = command
    for world in given.worlds:
        order = Order(
            study=study,
            size=given.size,
            world=world,
            num_problems=given.problems,
            samples=given.samples,
            seed=given.seed,
        )
        unit = asyncio.run(measure_world(order))
        lines = [each for each in read_records(order.file) if "settings" not in each]
        found["worlds"][world] = summary(lines, unit=unit)
    return found


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not defined becomes null."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/miniature"), help="the study's folder")
    parser.add_argument("--write", type=Path, default=Path("docs/results"), help="folder of value.md and value.json")
    parser.add_argument("--size", default="small", help="of the student")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--problems", type=int, default=100, help="the first so many; one trajectory of each")
    parser.add_argument("--samples", type=int, default=16, help="continuations of each kind at each step")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        found = run_all_worlds(given, command=command_line(parser, given))
    except SodError as error:
        print(error, file=sys.stderr)
        return 2
    text = json.dumps(_finite(found), indent=1) + "\n"
    (given.out / "value" / f"{given.size}.json").write_text(text, encoding="utf-8")
    given.write.mkdir(parents=True, exist_ok=True)
    (given.write / "value.json").write_text(text, encoding="utf-8")
    (given.write / "value.md").write_text(markdown(found), encoding="utf-8")
    print(given.write / "value.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
