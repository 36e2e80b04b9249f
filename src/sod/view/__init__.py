"""`sod view`: a run's trajectories in a browser, served on this machine only or written as a folder to open from disk.

What is shown was partly written by a model: it is text and stays text (`page/`, whose every string goes through
textContent), and nothing but the page and the runs named can be reached (`server.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["export", "serve"]


def serve(runs: Sequence[Path], *, port: int = 0, on_ready: Callable[[str], None]) -> None:
    """Serve the viewer of these runs on 127.0.0.1 until Ctrl-C; `on_ready` gets the URL. Port 0 takes a free one.

    Runs are only read, and may still be written to: what is new appears. Raises DataError for a directory without a
    run, ConfigError for a port that cannot be had.

        serve([Path("runs/sod")], on_ready=print)  ->  http://127.0.0.1:41873/
    """
    from sod.view.server import serve_runs

    serve_runs(runs, port=port, on_ready=on_ready)


def export(run: Path, out: Path, *, limit: int = 500) -> Path:
    """Write the viewer with at most `limit` trajectories, the most telling first, into the folder `out`.

    It opens from disk and needs no server. Returns its index.html. Raises DataError for a directory without a run,
    ConfigError when `out` holds something else, StorageError when it cannot be written.

        export(Path("runs/sod"), Path("sod-view"))  ->  sod-view/index.html
    """
    from sod.view.export import write_export

    return write_export(run, out, limit=limit)
