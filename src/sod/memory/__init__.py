"""What memory a run takes, worked out from its config before anything is loaded, beside what is there.

    needed = estimate(config)
    needed.peak_bytes("cuda:0"), available("cuda:0")

What is *certain* (weights, gradients, optimizer state, what vLLM sets aside) is counted exactly. The rest is the most a
run can come to: every trajectory as long as it may be. Not counted: the libraries themselves, the sandbox's calls, and
what an allocator cannot use of what it holds.
"""

from sod.memory.items import estimate
from sod.memory.needed import Estimate, Item, table
from sod.memory.room import available
from sod.memory.verdict import Advice, Verdict, advise, check, judge

__all__ = ["Advice", "Estimate", "Item", "Verdict", "advise", "available", "check", "estimate", "judge", "table"]
