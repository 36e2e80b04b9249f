"""Runs untrusted code: `LocalSandbox` on this machine, `FusionSandbox` on SandboxFusion servers.

    async with LocalSandbox() as sandbox:
        result = await sandbox.run("print(1 + 2)")  # status "ok", stdout "3\\n"

What protects from what, and what does not: docs/sandbox.md.
"""

from sod.config import SandboxConfig
from sod.sandbox.fusion import FusionSandbox
from sod.sandbox.local import LocalSandbox
from sod.sandbox.protocol import ExecutionResult, ExecutionStatus, Sandbox
from sod.sandbox.session import LocalSession

__all__ = [
    "ExecutionResult",
    "ExecutionStatus",
    "FusionSandbox",
    "LocalSandbox",
    "LocalSession",
    "Sandbox",
    "make_sandbox",
]


def make_sandbox(config: SandboxConfig) -> LocalSandbox | FusionSandbox:
    """The one that the config names, not started yet. Raises SandboxError when it cannot be on this machine."""
    settings = config.model_dump(exclude={"urls"})
    if not config.urls:
        return LocalSandbox(**settings)
    shared = ("memory_mb", "max_output_bytes")
    return FusionSandbox(config.urls, max_file_mb=config.disk_mb, **{key: settings[key] for key in shared})
