"""`sod doctor`: what this machine has, what is missing, and the cure.

Every check really does what it is about (the sandbox runs code, torch is imported in a process of its own), and none
raises: a check that fails in a way nobody foresaw becomes a finding that says so.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sod.config import ToolConfig
from sod.errors import SodError
from sod.memory import available
from sod.sandbox import ExecutionResult, LocalSandbox
from sod.sandbox.refusal import cures

__all__ = ["Finding", "examine"]

DISTRIBUTION = "sod-distill"
MIN_PYTHON = (3, 11)
MIN_DISK_GIB = 5.0
"""torch alone takes over 1 GiB; a run writes checkpoints of the student."""
MIN_MEMORY_GIB = 4.0
TORCH_TIMEOUT_S = 120.0
"""A first import from a slow disk can take a minute."""
SANDBOX_CALLS = 5
SANDBOX_TIMEOUT_S = 60.0

State: TypeAlias = Literal["ok", "warn", "missing"]
GIB = float(1 << 30)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at.

    `state`: "ok"; "warn" works with a limit; "missing" is not there or does not work. `cure` says what to do, "" when
    there is nothing to. Only what is `required` keeps `sod` from running; an extra is not.
    """

    name: str
    state: State
    found: str
    cure: str = ""
    required: bool = True


def examine(model: str | Path | None = None) -> list[Finding]:
    """Look at this machine, and at a model directory's tokenizer and chat template when one is given. Never raises.

    Takes some seconds, most of it torch's import (in a process of its own, so that a broken one ends nothing here).
    """
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("Python", _python),
        ("packages", _packages),
        ("torch", _torch),
        ("extras", _extras),
        ("sandbox", _sandbox),
        ("disk", _disk),
        ("memory", _memory),
        ("hub", _hub),
        ("git", _git),
    ]
    if model is not None:
        checks.append(("model", lambda: _model(Path(model))))
    return [finding for name, check in checks for finding in _guarded(name, check)]


def _guarded(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:
        found = f"the check itself failed: {type(error).__name__}: {error}"
        return [Finding(name=name, state="warn", found=found, cure="report this to the project")]


# ---- Python and packages


def _python() -> Iterator[Finding]:
    found = f"{platform.python_version()} at {sys.executable}, {platform.system()} {platform.machine()}"
    wanted = ".".join(map(str, MIN_PYTHON))
    if sys.version_info < MIN_PYTHON:
        yield Finding(name="Python", state="missing", found=found, cure=f"install Python {wanted} or later")
    else:
        yield Finding(name="Python", state="ok", found=found)


def _packages() -> Iterator[Finding]:
    """What `sod-distill` requires, against what is installed; torch and transformers by name."""
    requirements = _requirements()
    if requirements is None:
        cure = f"pip install {DISTRIBUTION}, or `pip install -e .` in a clone"
        yield Finding(name="packages", state="missing", found=f"{DISTRIBUTION} is not installed", cure=cure)
        return
    core = [requirement for requirement in requirements if _applies(requirement)]
    faults = {requirement.name: fault for requirement in core if (fault := _fault(requirement))}
    for requirement in core:
        if requirement.name in faults:
            cure = f'pip install "{requirement.name}{requirement.specifier}"'
            yield Finding(name=requirement.name, state="missing", found=faults[requirement.name], cure=cure)
        elif requirement.name == "transformers":
            found = f"{metadata.version('transformers')}, within {requirement.specifier}"
            yield Finding(name="transformers", state="ok", found=found)
    if not faults:
        yield Finding(name="packages", state="ok", found=f"{len(core)} required packages, all within their ranges")


def _extras() -> Iterator[Finding]:
    """Each extra that the installed version declares; those for development are left out."""
    for extra in metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or ():
        if extra == "dev":
            continue
        needed = [each for each in _requirements() or () if not _applies(each) and _applies(each, extra=extra)]
        faults = [f"{each.name} {fault}" for each in needed if (fault := _fault(each))]
        if faults:
            cure = f'pip install "{DISTRIBUTION}[{extra}]"'
            yield Finding(name=f"extra {extra}", state="missing", found="; ".join(faults), cure=cure, required=False)
        else:
            found = ", ".join(f"{each.name} {metadata.version(each.name)}" for each in needed) or "needs nothing"
            yield Finding(name=f"extra {extra}", state="ok", found=found, required=False)


def _requirements() -> list[Any] | None:
    """Parsed requirements of the installed distribution, None when there is none. `packaging` is transformers' own."""
    from packaging.requirements import Requirement

    try:
        return [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        return None


def _applies(requirement: Any, *, extra: str = "") -> bool:
    return requirement.marker is None or bool(requirement.marker.evaluate({"extra": extra}))


def _fault(requirement: Any) -> str:
    """What is wrong with an installed package, "" when nothing."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return "not installed"
    # A local build such as 2.13.0+cpu counts as 2.13.0; a pre-release someone installed on purpose is judged by number.
    inside = requirement.specifier.contains(version, prereleases=True)
    return "" if inside else f"{version}, supported is {requirement.specifier}"


_TORCH_PROBE = """
import json, torch
gpus = []
if torch.cuda.is_available():
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        gpus.append([facts.name, facts.total_memory, torch.cuda.is_bf16_supported()])
one = torch.ones(2, 2, dtype=torch.bfloat16)
print(json.dumps({
    "version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus,
    "threads": torch.get_num_threads(), "bf16": float((one @ one).sum()) == 8.0,
}))
"""


def _torch() -> Iterator[Finding]:
    """Imports torch and multiplies once, in a process of its own: a broken build can end the process it is in."""
    try:
        probe = subprocess.run(
            [sys.executable, "-P", "-c", _TORCH_PROBE], capture_output=True, text=True, timeout=TORCH_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        found = f"its import took over {TORCH_TIMEOUT_S:.0f} s"
        yield Finding(name="torch", state="missing", found=found, cure="look for a stuck GPU driver or a slow disk")
        return
    if probe.returncode:
        last = (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]
        cure = 'pip install "torch>=2.11,<2.14"; for a machine without a GPU add --index-url https://download.pytorch.org/whl/cpu'
        yield Finding(name="torch", state="missing", found=f"cannot be imported: {last}", cure=cure)
        return
    facts = json.loads(probe.stdout.splitlines()[-1])
    bf16 = "bf16 works" if facts["bf16"] else "no bf16"
    yield Finding(name="torch", state="ok", found=f"{facts['version']}, {facts['threads']} threads, {bf16}")
    yield _gpu(facts)


def _gpu(facts: Mapping[str, Any]) -> Finding:
    if facts["gpus"]:
        named = [
            f"{name} {memory / GIB:.0f} GiB{'' if has_bf16 else ' without bf16'}"
            for name, memory, has_bf16 in facts["gpus"]
        ]
        return Finding(name="GPU", state="ok", found=f"{', '.join(named)} (CUDA {facts['cuda']})", required=False)
    if shutil.which("nvidia-smi") is None:
        found = "none: everything runs on the CPU, fine for the demo and very small models"
        return Finding(name="GPU", state="ok", found=found, required=False)
    why = "torch is built without CUDA" if facts["cuda"] is None else f"torch (CUDA {facts['cuda']}) cannot use it"
    cure = "install the torch build for this driver: https://pytorch.org/get-started/locally"
    return Finding(name="GPU", state="warn", found=f"a driver is here, but {why}", cure=cure, required=False)


# ---- the sandbox


def _sandbox() -> Iterator[Finding]:
    """Runs real code in a real sandbox. In a thread, so that it works from within a running event loop too."""
    with ThreadPoolExecutor(1) as thread:
        try:
            results = thread.submit(asyncio.run, _sandbox_calls()).result()
        except (SodError, OSError, TimeoutError) as error:
            cure = "`sod sandbox check` tries each level"
            yield Finding(name="sandbox", state="missing", found=str(error) or type(error).__name__, cure=cure)
            return
    bad = next((result for result in results if result.status != "ok" or result.stdout != "1\n"), None)
    if bad is not None:
        found = f"print(1) ended as {bad.status}: {(bad.detail or bad.stderr).strip()[:300] or 'no detail'}"
        yield Finding(name="sandbox", state="missing", found=found, cure="free memory and processes, check /tmp")
        return
    call_ms = 1000 * statistics.median(result.wall_s + result.queue_s for result in results)
    level, *layers = results[0].isolation
    found = f"level {level}, print(1) in {call_ms:.0f} ms: {', '.join(layers)}"
    if level == "A":
        yield Finding(name="sandbox", state="ok", found=found)
    else:
        cure = f"code can start no processes; for level A: {', or '.join(cures())}"
        yield Finding(name="sandbox", state="warn", found=found, cure=cure)


async def _sandbox_calls() -> list[ExecutionResult]:
    """Some calls after the one that the start makes."""
    async with asyncio.timeout(SANDBOX_TIMEOUT_S), LocalSandbox(workers=1) as sandbox:
        return [await sandbox.run("print(1)") for _ in range(SANDBOX_CALLS)]


# ---- the machine


def _disk() -> Iterator[Finding]:
    places = {"here": Path.cwd(), "temporary files": Path(tempfile.gettempdir()), "models": _hub_home()}
    free_gib = {name: _free_gib(place) for name, place in places.items()}
    found = ", ".join(f"{free:.1f} GiB free for {name} ({places[name]})" for name, free in free_gib.items())
    low = [name for name, free in free_gib.items() if free < MIN_DISK_GIB]
    if low:
        cure = f"free space for {', '.join(low)}: checkpoints and models need at least {MIN_DISK_GIB:g} GiB"
        yield Finding(name="disk", state="warn", found=found, cure=cure)
    else:
        yield Finding(name="disk", state="ok", found=found)


def _free_gib(place: Path) -> float:
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free / GIB


def _memory() -> Iterator[Finding]:
    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    available = _available_memory()
    if available is None:
        yield Finding(name="memory", state="warn", found=f"{num_cpus} CPU cores; free memory is not known here")
        return
    found = f"{available / GIB:.1f} GiB available, {num_cpus} CPU cores"
    if available < MIN_MEMORY_GIB * GIB:
        cure = f"close other programs; below {MIN_MEMORY_GIB:g} GiB use tiny models and a low sandbox.memory_mb"
        yield Finding(name="memory", state="warn", found=found, cure=cure)
    else:
        yield Finding(name="memory", state="ok", found=found)


def _available_memory() -> int | None:
    return available("cpu")


# ---- surroundings


def _hub_home() -> Path:
    return Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()


def _hub() -> Iterator[Finding]:
    """Where downloaded models lie, and whether new ones may be downloaded."""
    home = _hub_home()
    source = "HF_HOME" if "HF_HOME" in os.environ else "the default"
    offline = [
        name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name, "0") not in ("", "0")
    ]
    found = f"models lie in {home} ({source})"
    found += (
        f"; offline by {', '.join(offline)}: only what is there can be used" if offline else "; downloads are allowed"
    )
    place = home
    while not place.exists():
        place = place.parent
    if os.access(place, os.W_OK):
        yield Finding(name="hub", state="ok", found=found, required=False)
    else:
        cure = "set HF_HOME to a directory you may write to"
        yield Finding(name="hub", state="warn", found=f"{found}; not writable", cure=cure, required=False)


def _git() -> Iterator[Finding]:
    program = shutil.which("git")
    if program is None:
        cure = "install git; without it run.json does not name the commit"
        yield Finding(name="git", state="warn", found="not installed", cure=cure, required=False)
        return
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10)
    yield Finding(name="git", state="ok", found=done.stdout.strip() or program, required=False)


# ---- a model


def _model(directory: Path) -> Iterator[Finding]:
    """Loads the tokenizer and lets the chat template prove that episodes can be recorded with it."""
    if not directory.is_dir():
        cure = "give a model's directory (download one first: `hf download NAME --local-dir DIR`)"
        yield Finding(name="model", state="missing", found=f"{directory} is not a directory", cure=cure)
        return
    from sod.chat import Chat, load_tokenizer
    from sod.tools import interpreter_schema

    try:
        tokenizer = load_tokenizer(str(directory))
        chat = Chat(tokenizer, tools=[interpreter_schema(ToolConfig())])
    except SodError as error:
        cure = "use an instruct model with a Hermes tool template (Qwen2.5, Qwen3)"
        yield Finding(name="model", state="missing", found=str(error), cure=cure)
        return
    num_weights = len(list(directory.glob("*.safetensors")))
    found = f"{directory}: template keeps the token record, {len(chat.stop_token_ids)} stop tokens"
    if num_weights:
        yield Finding(name="model", state="ok", found=f"{found}, {num_weights} weight files")
    else:
        cure = "put the model's .safetensors files beside its tokenizer"
        yield Finding(name="model", state="warn", found=f"{found}, no weights", cure=cure)
