"""ROPD (arXiv 2605.07396): rewards from a teacher that gives text and no log-probs. No torch.

    async with RubricJudge(config.rubrics, cache=run / "rubrics", ledger=run / "rubrics_spent.jsonl") as judge:
        scores = await judge.judge(problem, trajectories, scores)  # value = share of the rubric's points

answers of the teacher --.
problem -----------------+-> rubric: 4-12 criteria, 1-5 points each --> verdicts: yes or no --> sum(w v) / (sum w + eps)
rollouts of the student -'                                   a rollout -^

One file an idea: wording (what is said to the models), fences (what students wrote stays data), replies (what models
answer is read without trust), client (one server), answers (what was answered is kept), budget, judge.
"""

from sod.rubrics.budget import BudgetError, Spent
from sod.rubrics.client import RubricError
from sod.rubrics.judge import RubricJudge, UnusableReplyError
from sod.rubrics.replies import Criterion

__all__ = ["BudgetError", "Criterion", "RubricError", "RubricJudge", "Spent", "UnusableReplyError"]
