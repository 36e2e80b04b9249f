"""The hooks of the documentation site, which are in no package: scripts/site."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "site"))
from commands import commands  # noqa: E402
from fences import Fence, fences, outside  # noqa: E402
from github_markdown import on_page_markdown  # noqa: E402

sys.path.pop(0)

__all__ = ["ROOT", "Fence", "commands", "fences", "on_page_markdown", "outside"]
