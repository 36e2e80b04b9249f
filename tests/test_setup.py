"""scripts/setup.sh says in one line what is missing. Real processes in a copy of the checkout; nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
Setup = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    path = tmp_path / "a checkout"
    (path / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup.sh", path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", path)
    return path


@pytest.fixture
def setup(checkout: Path) -> Setup:
    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(checkout / "scripts" / "setup.sh"), "report"]
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "SETUP_MIN_FREE_MB")}
        return subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=60)

    return run


def executable(path: Path, script: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def assert_one_line(process: subprocess.CompletedProcess[str], *words: str) -> None:
    assert process.returncode == 1
    assert process.stderr.startswith("setup: ")
    assert process.stderr.count("\n") == 1, process.stderr
    for word in words:
        assert word in process.stderr


def test_python_that_does_not_run(setup: Setup) -> None:
    assert_one_line(setup(PYTHON="/nonexistent"), "PYTHON=/nonexistent does not run")


def test_old_python(setup: Setup, tmp_path: Path) -> None:
    assert_one_line(setup(PYTHON=executable(tmp_path / "old", "echo 3.9.18")), "3.11 or newer is needed", "is 3.9.18")


def test_only_old_or_broken_pythons_on_path(setup: Setup, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    for name in ("bash", "dirname", "flock"):
        tools.mkdir(exist_ok=True)
        (tools / name).symlink_to(shutil.which(name) or f"/nonexistent/{name}")
    executable(tools / "python3.12", "echo 'no such version' >&2; exit 127")
    executable(tools / "python3", "echo 3.10.2")
    assert_one_line(setup(PATH=str(tools)), "none is on PATH", "python3 is 3.10.2")


def test_no_venv_module(setup: Setup, checkout: Path, tmp_path: Path) -> None:
    bare = executable(tmp_path / "bare", f'case "$2" in *ensurepip*) exit 1;; esac\nexec "{sys.executable}" "$@"')
    assert_one_line(setup(PYTHON=bare), "no venv module", "apt install python3.")
    assert not (checkout / ".venv").exists()


def test_too_little_disk(setup: Setup, checkout: Path) -> None:
    process = setup(PYTHON=sys.executable, SETUP_MIN_FREE_MB="999999999")
    assert_one_line(process, "999999999 MB of free disk are needed")
    assert not (checkout / ".venv").exists()


def test_an_environment_of_somebody_else_is_left_alone(setup: Setup, checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "pyvenv.cfg").touch()
    assert_one_line(setup(PYTHON=sys.executable), "was made by something else")
    assert (checkout / ".venv" / "pyvenv.cfg").exists()


@pytest.fixture
def venv(checkout: Path) -> Path:
    """An environment that setup made, with an interpreter that only says its version."""
    path = checkout / ".venv"
    executable(path / "bin" / "python", "echo 3.11.7")
    executable(path / "bin" / "sod", "exit 0")
    (path / "made-by-setup").write_text(f"{checkout}\n")
    return path


def fail_in_pip(venv: Path, output: str) -> None:
    pip = f"case \"$*\" in *pip*) echo '{output}'; exit 1;; *disk_usage*) echo 9999;; *) echo 3.11.7;; esac"
    executable(venv / "bin" / "python", pip)


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("Retrying (Retry(total=0)) after connection broken by NewConnectionError", "index cannot be reached"),
        ("OSError: [Errno 28] No space left on device", "the disk ran full"),
        ("ERROR: Operation cancelled by user", "interrupted"),
    ],
)
def test_known_pip_failures(setup: Setup, venv: Path, output: str, cause: str) -> None:
    fail_in_pip(venv, output)
    assert_one_line(setup(), cause)
    assert not (venv / "unfinished").exists()
    assert not (venv / "ready-report").exists()


def test_other_pip_failures_show_the_last_lines_and_the_log(setup: Setup, venv: Path) -> None:
    fail_in_pip(venv, "ERROR: No matching distribution found for torch")
    process = setup()
    assert process.returncode == 1
    assert "  | ERROR: No matching distribution found for torch" in process.stderr
    assert str(venv / "setup.log") in process.stderr


def test_a_failure_while_packages_are_put_in_place_is_remembered(setup: Setup, venv: Path) -> None:
    fail_in_pip(venv, "Installing collected packages: torch")
    assert setup().returncode == 1
    assert (venv / "unfinished").exists()


def test_nothing_to_do_is_silent(setup: Setup, checkout: Path, venv: Path) -> None:
    (venv / "ready-report").write_text("3.11.7\n" + (checkout / "pyproject.toml").read_text())
    process = setup()
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
