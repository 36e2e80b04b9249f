"""The cold start: supervised fine-tuning on traces, over the same token record as rollouts.

Shapes: B trajectory, T token, N packed token.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sod.agent import draw_seed
from sod.batch import microbatches, pad
from sod.chat import Chat, Tokenizer, TokenRecord, load_tokenizer
from sod.config import FREE, SFTConfig, dump
from sod.errors import DataError, ModelError
from sod.models.engine import load_student
from sod.models.hf import HFModel
from sod.optimizer import Optimizer
from sod.runs import RunDirectory
from sod.tools import make_tools
from sod.traces import Trace, load_traces

Listener = Callable[[str, Mapping[str, Any]], None]


def sft(config: SFTConfig, *, listener: Listener = lambda _event, _values: None) -> None:
    """Train on the config's traces and write the model; a finished run is left as it is."""
    with RunDirectory.open(config.run, config_json=dump(config), command="sft", free=FREE) as run:
        if run.finished:
            listener("finished", {"run": config.run})
            return
        tokenizer = load_tokenizer(config.student.path)
        records = tokenize(load_traces(config.traces), tokenizer, config=config, listener=listener)
        student = load_student(
            config.student, lora=config.lora, gradient_checkpointing=config.gradient_checkpointing, seed=config.seed
        )
        _check_vocabulary(records, student, config)
        run.truncate_after(0)  # a cold start is short: an interrupted one starts again
        _train(config, run, student, records, listener)
        with run.checkpoint("final") as folder:
            student.save(folder / "model")
            tokenizer.save_pretrained(str(folder / "model"))
        run.finish(f"{len(records)} traces")


def tokenize(
    traces: Sequence[Trace], tokenizer: Tokenizer, *, config: SFTConfig, listener: Listener
) -> list[TokenRecord]:
    """Token records of the traces that fit. Raises DataError when none does; those left out are counted aloud."""
    tools = make_tools(config.tool, sandbox=None)
    schemas = [tool.schema for tool in tools.values()]
    chat = Chat(tokenizer, tools=schemas, thinking=config.agent.thinking, system=config.agent.system)
    records: list[TokenRecord] = []
    too_long = unreadable = 0
    for trace in traces[: config.limit or None]:
        try:
            record = chat.trace_ids(trace.messages)
        except DataError:
            unreadable += 1
            continue
        if len(record.token_ids) > config.max_tokens:
            too_long += 1
            continue
        records.append(record)
    if not records:
        raise DataError(
            f"{config.traces}: at least one trace must fit, got {too_long} longer than max_tokens = {config.max_tokens}"
            f" and {unreadable} that the template cannot write"
        )
    if too_long or unreadable:
        listener("left_out", {"too_long": too_long, "unreadable": unreadable, "kept": len(records)})
    return records


def _check_vocabulary(records: Sequence[TokenRecord], student: HFModel, config: SFTConfig) -> None:
    """On a GPU a token outside the vocabulary would end the process."""
    largest = max(token_id for record in records for token_id in record.token_ids)
    if largest >= student.vocab_size:
        raise ModelError(
            f"{config.student.path}: the model must know its tokenizer's ids, got id {largest} for a vocabulary of "
            f"{student.vocab_size}; does the tokenizer belong to the model?"
        )


def _train(
    config: SFTConfig, run: RunDirectory, student: HFModel, records: Sequence[TokenRecord], listener: Listener
) -> None:
    num_steps = max(1, round(config.epochs * len(records) / config.batch))
    optimizer = Optimizer(student.module, config=config.optimizer, num_steps=num_steps)
    start = time.perf_counter()
    for number, chosen in zip(range(1, num_steps + 1), _batches(config, len(records)), strict=False):
        metrics = step([records[index] for index in chosen], student, optimizer, config=config)
        run.append("metrics", {"update": number, **metrics})
        elapsed_s = time.perf_counter() - start
        run.append("timing", {"update": number, "elapsed_s": round(elapsed_s, 3)})
        listener("step", {"update": number, "num_updates": num_steps, "elapsed_s": elapsed_s, **metrics})


def _batches(config: SFTConfig, count: int) -> Iterator[list[int]]:
    """Endless shuffled passes over the traces, cut into batches."""
    waiting: list[int] = []
    number = 0
    while True:
        while len(waiting) < config.batch:
            waiting += random.Random(draw_seed("sft", config.seed, number)).sample(range(count), count)
            number += 1
        yield waiting[: config.batch]
        waiting = waiting[config.batch :]


def step(
    records: Sequence[TokenRecord], student: HFModel, optimizer: Optimizer, *, config: SFTConfig
) -> dict[str, float]:
    """One optimizer step on the mean negative log-prob of the student's tokens of these records."""
    length_B = torch.tensor([len(record.token_ids) for record in records])
    num_tokens = sum(value >= 0 for record in records for value in record.step)
    loss = 0.0
    for rows in microbatches(length_B, max_tokens=config.tokens_per_microbatch):
        token_BT, mask_BT = _padded([records[row] for row in rows.tolist()], device=student.device)
        part = -student.token_logprobs(token_BT, mask_BT).logprobs_N.sum() / num_tokens
        part.backward()  # type: ignore[no-untyped-call]
        loss += float(part.detach())
    lr = optimizer.lr
    return {"loss": loss, "grad_norm": optimizer.step(), "lr": lr, "num_tokens": num_tokens}


def _padded(records: Sequence[TokenRecord], *, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(record.token_ids) for record in records)
    token_BT = pad([record.token_ids for record in records], longest, 0, torch.int64)
    step_BT = pad([record.step for record in records], longest, -1, torch.int64)
    return token_BT.to(device), (step_BT >= 0).to(device)


def final_model(run: str | Path) -> Path:
    """Where the trained model of a finished run lies."""
    return Path(run) / "checkpoints" / "final" / "model"
