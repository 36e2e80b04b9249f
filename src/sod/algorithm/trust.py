"""Whether a teacher that has perhaps never seen a failed call is worth hearing after one: it earns it by outcomes.

A teacher that knows how to recover likes the steps that end well, after a failure as before one. One that does not
know dislikes whatever follows, however it ends. And one may know how a call is written, but not that it is to be made
again: it is right about a step's many tokens and wrong about the first, where the step is decided, so that one is asked
about by itself.

Shapes: B trajectory, K step.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_AGREEMENT = 0.05
"""A smaller correlation elsewhere is noise, and no measure for the one after a failure."""

LEAST_SPREAD = 0.01
"""In nats: approvals that vary less are alike, and what goes along with their last digits is noise. Those of steps that
all begin with one tag are such."""


def after_failure(failed_BK: Tensor) -> Tensor:
    """Steps after the first one whose call failed. `failed [0 1 0 0] -> [0 0 1 1]`."""
    return torch.nn.functional.pad(failed_BK.cumsum(1)[:, :-1] > 0, (1, 0), value=False)


def agreement(approval_BK: Tensor, advantage_B: Tensor, chosen_BK: Tensor) -> Tensor:
    """How the teacher's approval of steps goes along with how their trajectories end: the correlation, -1 to 1.

    `approval [-2 0 | 0 0], advantage [-1 1]`, all chosen -> .58. NaN where there is nothing to tell from: under three
    steps, all ended alike, or all approved of alike.

    Args:
        approval_BK: log p_teacher - log p_student of a step in nats, a mean over its tokens or that of its first; NaN
            where there is no step.
        advantage_B: the outcome's advantage of each trajectory within its group.
        chosen_BK: the steps in question.
    """
    chosen_BK = chosen_BK & ~approval_BK.isnan()
    if int(chosen_BK.sum()) < 3:
        return torch.full((), torch.nan, dtype=torch.float64, device=approval_BK.device)
    pair_2N = torch.stack([approval_BK[chosen_BK], advantage_B[:, None].expand_as(approval_BK)[chosen_BK]]).double()
    return torch.where(pair_2N[0].std() < LEAST_SPREAD, torch.nan, pair_2N.corrcoef()[0, 1])


def earned_trust(here: float, elsewhere: float, *, opening: float = 0.0) -> float:
    """0 where the approval tells at most half as much of the outcome as elsewhere, 1 where it tells as much; less where
    the approval of openings tells the contrary, and 0 where it does so half as much.

    `agreement .2 elsewhere: .2 here -> 1, .15 -> .5, .1 -> 0; .2 here and -.05 at openings -> .5`. A teacher that tells
    nothing anywhere has earned none.

    Args:
        here: agreement of the approval of steps, after a failed call.
        elsewhere: the same over all other steps.
        opening: agreement of the approval of steps' first tokens, after a failed call.
    """
    if elsewhere < LEAST_AGREEMENT:
        return 0.0
    return _share(2.0 * here / elsewhere - 1.0) * _share(1.0 + 2.0 * opening / elsewhere)


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
