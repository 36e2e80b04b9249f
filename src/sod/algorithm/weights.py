"""How far the teacher is trusted at each step. Shapes: B trajectory, K step."""

from __future__ import annotations

from torch import Tensor


def step_weights(divergence_BK: Tensor, *, delta: float = 0.2, epsilon: float = 1e-6) -> Tensor:
    """w_k = min((d_1 + epsilon) / (d_k + epsilon), 1 + delta), so w_1 = 1 (eq 7).

    The paper writes a product of ratios of neighbouring steps; it telescopes to this, and the cap is put on the result.
    `divergence [.2 .4 .1], delta .2 -> [1 .5 1.2]`. NaN (no such step) stays NaN.

    Args:
        divergence_BK: d_k in nats.
        delta: a weight is at most 1 + delta.
        epsilon: in nats. Far below the scale of d the weight is a cliff, near it a slope.
    """
    ratio_BK = (divergence_BK[:, :1] + epsilon) / (divergence_BK + epsilon)
    return ratio_BK.clamp(max=1.0 + delta)
