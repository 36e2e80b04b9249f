"""`sod doctor`: what it finds is so, every gap has its cure, and nothing makes it raise."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from sod import doctor
from sod.doctor import Finding, examine
from sod.sandbox import ExecutionResult


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture(scope="module")
def here() -> dict[str, Finding]:
    """This machine, looked at once."""
    return by_name(examine())


def test_this_machine_can_run_sod(here: dict[str, Finding]) -> None:
    assert {
        "Python",
        "transformers",
        "packages",
        "torch",
        "GPU",
        "sandbox",
        "disk",
        "memory",
        "hub",
        "git",
    } <= here.keys()
    assert [f for f in here.values() if f.required and f.state == "missing"] == []
    assert metadata.version("torch").split("+")[0] in here["torch"].found
    assert "threads" in here["torch"].found
    assert "rlimits" in here["sandbox"].found
    assert here["extra report"].state == "ok"
    assert "extra dev" not in here


def test_a_gap_comes_with_its_cure(here: dict[str, Finding]) -> None:
    assert all(finding.cure for finding in here.values() if finding.state == "missing")
    assert all(not finding.cure for finding in here.values() if finding.state == "ok")


def test_missing_extra_gives_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    _hide(monkeypatch, "gguf")
    extras = by_name(doctor._extras())
    assert extras["extra gguf"] == Finding(
        name="extra gguf",
        state="missing",
        found="gguf not installed",
        cure='pip install "sod-distill[gguf]"',
        required=False,
    )
    assert extras["extra report"].state == "ok"


def test_missing_requirement(monkeypatch: pytest.MonkeyPatch) -> None:
    _hide(monkeypatch, "httpx")
    found = by_name(doctor._packages())
    assert (found["httpx"].state, found["httpx"].cure) == ("missing", 'pip install "httpx>=0.28"')
    assert "packages" not in found


def test_unsupported_version(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "4.57.1" if name == "transformers" else real(name))
    found = by_name(doctor._packages())["transformers"]
    assert found.state == "missing"
    assert found.found.startswith("4.57.1, supported is ")
    assert "5.16" in found.cure


def test_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    (found,) = doctor._packages()
    assert found.state == "missing"
    assert "pip install" in found.cure


def test_broken_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_TORCH_PROBE", "import os; os.abort()")
    (found,) = doctor._torch()
    assert (found.state, "exit code -6" in found.found) == ("missing", True)
    monkeypatch.setattr(doctor, "_TORCH_PROBE", "raise ImportError('libcudart.so: not found')")
    (found,) = doctor._torch()
    assert "libcudart.so: not found" in found.found


def test_stuck_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_TORCH_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "TORCH_TIMEOUT_S", 0.2)
    (found,) = doctor._torch()
    assert found.state == "missing"
    assert "over 0 s" in found.found


def test_gpu_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    good = doctor._gpu({"gpus": [["H200", 141 << 30, True]], "cuda": "13.0"})
    assert (good.state, good.found) == ("ok", "H200 141 GiB (CUDA 13.0)")
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/nvidia-smi")
    unused = doctor._gpu({"gpus": [], "cuda": None})
    assert unused.state == "warn"
    assert "without CUDA" in unused.found


@pytest.mark.parametrize(
    ("result", "state", "words"),
    [
        ({"status": "ok", "stdout": "1\n", "isolation": ("A", "pidns", "netns")}, "ok", "level A, print(1) in 10 ms"),
        ({"status": "ok", "stdout": "1\n", "isolation": ("B", "landlock7")}, "warn", "level B, print(1) in 10 ms"),
        ({"status": "sandbox_error", "stdout": "", "detail": "no fork"}, "missing", "sandbox_error: no fork"),
        ({"status": "ok", "stdout": ""}, "missing", "ended as ok"),
    ],
)
def test_sandbox_findings(monkeypatch: pytest.MonkeyPatch, result: dict[str, Any], state: str, words: str) -> None:
    async def calls() -> list[ExecutionResult]:
        return [ExecutionResult(stderr="", wall_s=0.01, **result)] * 3

    monkeypatch.setattr(doctor, "_sandbox_calls", calls)
    (found,) = doctor._sandbox()
    assert (found.state, words in found.found) == (state, True), found


def test_sandbox_is_examined_from_within_a_running_loop() -> None:
    async def inside() -> list[Finding]:
        return list(doctor._sandbox())

    (found,) = asyncio.run(inside())
    assert "print(1) in" in found.found


def test_no_check_can_make_it_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Finding]:
        raise RuntimeError("never foreseen")

    checks = [
        name for name in vars(doctor) if name in {"_python", "_packages", "_torch", "_extras", "_sandbox", "_git"}
    ]
    for name in checks:
        monkeypatch.setattr(doctor, name, broken)
    findings = examine()
    assert sum("never foreseen" in finding.found for finding in findings) == len(checks) == 6


def test_little_disk_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_free_gib", lambda _place: 0.5)
    monkeypatch.setattr(doctor, "_available_memory", lambda: 1 << 30)
    (disk,), (memory,) = doctor._disk(), doctor._memory()
    assert (disk.state, memory.state) == ("warn", "warn")
    assert "1.0 GiB available" in memory.found


def test_offline_and_hub_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "not" / "yet"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (found,) = doctor._hub()
    assert found.state == "ok"
    assert "offline by HF_HUB_OFFLINE" in found.found
    assert str(tmp_path / "not" / "yet") in found.found


def test_no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    (found,) = doctor._git()
    assert (found.state, found.required) == ("warn", False)


def test_model_directory(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.save_pretrained(tmp_path / "good")
    (no_weights,) = doctor._model(tmp_path / "good")
    assert no_weights.state == "warn"
    assert "no weights" in no_weights.found
    (tmp_path / "good" / "model.safetensors").touch()
    assert [found.state for found in doctor._model(tmp_path / "good")] == ["ok"]
    shutil.copytree(tmp_path / "good", tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    (bare,) = doctor._model(tmp_path / "bare")
    assert bare.state == "missing"
    assert "chat template" in bare.found
    (absent,) = doctor._model(tmp_path / "absent")
    assert "not a directory" in absent.found


def test_import_is_light() -> None:
    code = "import sys, sod.doctor; print(*sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def _hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make one installed package look absent."""
    real = metadata.version

    def version(name: str) -> str:
        if name == package:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
