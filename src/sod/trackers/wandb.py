"""Weights & Biases: online, or by WANDB_MODE=offline into RUN/tracking/wandb for `wandb sync`.

The package's own collecting is off: what the terminal shows, code, git, argv, packages, names and load of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping

import wandb

from sod.trackers.tracker import Session

START_S, FINISH_S = 60, 20
"""Seconds that it may take to begin, and to send the rest at the end; what is left then is on disk."""


class WeightsAndBiases:
    """A run there with our id, taken up again by every session."""

    replaces = False

    def __init__(self, session: Session) -> None:
        settings = wandb.Settings(
            root_dir=str(session.folder),
            project=session.project,
            run_name=session.name,
            run_id=session.id,
            resume="allow",
            console="off",
            silent=True,
            save_code=False,
            disable_code=True,
            disable_git=True,
            host="",
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            init_timeout=START_S,
            finish_timeout=FINISH_S,
        )
        wandb.setup(wandb.Settings(silent=True))  # or it asks for a key on the run's terminal, and waits
        self._run = wandb.init(settings=settings, config={} if session.resumes else dict(session.config))
        self._run.define_metric("*", step_metric="update")
        self._next = self._run.step

    def send(self, numbers: Mapping[str, float], *, step: int) -> None:
        """A row at the run's own step, or at its next one when that is taken; `update` is what charts are over."""
        self._next = max(self._next, step)
        self._run.log({"update": step, **numbers}, step=self._next)

    def close(self) -> None:
        """End this session of the run."""
        self._run.finish()


def start(session: Session) -> WeightsAndBiases:
    """Begin the run, or go on with it."""
    return WeightsAndBiases(session)
