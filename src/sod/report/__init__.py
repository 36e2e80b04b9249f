"""Runs -> one page of tables and figures: `write_report`; `show_trajectory` for one trajectory as text.

What is read here was partly written by a model: nothing of it may break the page or the terminal (`untrusted.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sod.report.trajectory import show_trajectory, telling_trajectory

__all__ = ["show_trajectory", "telling_trajectory", "write_report"]


def write_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write report.html for one or several run directories, and its figures beside it as SVG and PNG; returns its path.

    They go to `out`, or to the folder report/ of the first run. Runs that are still written to are fine: what is there
    is shown. Lines that cannot be read are skipped and counted.

    Raises DataError for a directory without a run or a run without results, ConfigError when matplotlib is missing,
    StorageError when the report cannot be written.

        write_report([Path("runs/sod"), Path("runs/opd")])  ->  runs/sod/report/report.html
    """
    from sod.report.write import write

    return write(runs, out=out)
