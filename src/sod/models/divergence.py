"""Student and teacher compared over the whole vocabulary at sampled tokens, in chunks: no (tokens x vocabulary) tensor.

    result = token_divergences(student, teacher, token_BT, mask_BT, divergence=partial(jsd, beta=0.5))
    result.divergence_N.mean().backward()

Which divergence is the caller's: a function of log-probs, as in sod.algorithm.divergences. Nothing here knows more.

Shapes: B trajectory, T token, N packed token, E hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sod.errors import ModelError
from sod.models.hf import HFModel

__all__ = ["Divergence", "TokenDivergences", "token_divergences"]

CHUNK_ELEMENTS = 1 << 24
"""Of one float32 tensor of log-probs: 64 MiB, of which some ten stand at once with gradients. Smaller chunks
can take more memory: below 32 MiB glibc keeps what is freed."""
MAX_PADDING = 1024
"""Tokens by which two vocabularies may differ and still be one that was padded to two sizes."""

Divergence = Callable[[Tensor, Tensor], Tensor]
"""Student's and teacher's log-probs (N,V) -> (N,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenDivergences:
    """Of masked tokens, row by row, in nats and at least float32. Log-probs are natural, of the tokens themselves."""

    divergence_N: Tensor
    """Differentiable in the student."""
    logprobs_N: Tensor
    """The student's, differentiable: those of `HFModel.token_logprobs`."""
    teacher_logprobs_N: Tensor
    entropy_N: Tensor
    """Of the student's distribution."""
    teacher_entropy_N: Tensor


def token_divergences(
    student: HFModel,
    teacher: HFModel,
    token_BT: Tensor,
    mask_BT: Tensor,
    *,
    divergence: Divergence,
    temperature: float = 1.0,
    teacher_token_BT: Tensor | None = None,
    teacher_mask_BT: Tensor | None = None,
) -> TokenDivergences:
    """Compare the two next-token distributions in front of every masked token: `token [a b c], mask [0 0 1] -> D(. | a
    b)`. Rows and masks as in `HFModel.token_logprobs`; a prompt that several rows share is read once by each model.

    With gradients and more than one chunk, a chunk is computed again in the backward pass instead of kept. The teacher
    never gets a gradient. Vocabularies that differ by padding are compared over the tokens that both have, each
    distribution scaled to them; log-probs and entropies are those of each model's own vocabulary.

    Args:
        divergence: of log-probs, `partial(sod.algorithm.divergences.divergence, kind="jsd", beta=0.5, top_k=0)`.
        temperature: both models' logits are divided by it.
        teacher_token_BT, teacher_mask_BT: rows for a teacher that is shown another prompt. They have the student's
            number of rows, and in each the student's masked tokens.

    Raises ModelError for vocabularies more than `MAX_PADDING` apart, and tokens that the teacher does not know.
    """
    assert temperature > 0.0, f"temperature must be above 0, got {temperature}"
    num_common = _num_common(student, teacher)
    if teacher_token_BT is None or teacher_mask_BT is None:
        assert teacher_token_BT is teacher_mask_BT, "a teacher with rows of its own needs both, tokens and mask"
        teacher_token_BT, teacher_mask_BT = token_BT, mask_BT
    _check_rows(token_BT, mask_BT, teacher_token_BT, teacher_mask_BT, vocab_size=teacher.vocab_size)
    with torch.no_grad():  # first, so that the student's activations do not stand beside the teacher's
        teacher_hidden_NE = teacher.hidden_before(
            teacher_token_BT.to(teacher.device), teacher_mask_BT.to(teacher.device)
        )
    student_hidden_NE = student.hidden_before(token_BT, mask_BT)
    compare = _Comparison(
        student_head=student.head,
        teacher_head=teacher.head,
        divergence=divergence,
        temperature=temperature,
        num_common=num_common,
    )
    chunk = max(1, CHUNK_ELEMENTS // max(student.vocab_size, teacher.vocab_size))
    results = _in_chunks(compare, chunk, student_hidden_NE, teacher_hidden_NE, token_BT[mask_BT])
    return TokenDivergences(
        divergence_N=results[0],
        logprobs_N=results[1],
        teacher_logprobs_N=results[2],
        entropy_N=results[3],
        teacher_entropy_N=results[4],
    )


def _num_common(student: HFModel, teacher: HFModel) -> int:
    ours, theirs = student.vocab_size, teacher.vocab_size
    if abs(ours - theirs) > MAX_PADDING:
        raise ModelError(
            "student and teacher must have one vocabulary, but for padding of at most "
            f"{MAX_PADDING} tokens, got {ours} and {theirs} tokens; take a teacher with the student's tokenizer"
        )
    return min(ours, theirs)


def _check_rows(
    token_BT: Tensor, mask_BT: Tensor, teacher_token_BT: Tensor, teacher_mask_BT: Tensor, *, vocab_size: int
) -> None:
    """On a GPU a token outside the vocabulary would end the process."""
    largest = int(teacher_token_BT.max())
    if largest >= vocab_size:
        raise ModelError(
            f"every token must be one the teacher knows, got id {largest} for a vocabulary of {vocab_size}; did the "
            "student sample one of its padding tokens?"
        )
    if teacher_token_BT is token_BT and teacher_mask_BT is mask_BT:
        return
    assert len(mask_BT) == len(teacher_mask_BT), "the teacher must be shown as many rows as the student"
    assert torch.equal(mask_BT.sum(1), teacher_mask_BT.sum(1).to(mask_BT.device)), (
        "a teacher's row must mask as many tokens as the student's"
    )
    same = torch.equal(token_BT[mask_BT], teacher_token_BT[teacher_mask_BT].to(token_BT.device))
    assert same, "a teacher's row must hold the tokens that the student sampled, in their order"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Comparison:
    """Both heads on the hidden states of one chunk, and what is made of their logits."""

    student_head: nn.Module
    teacher_head: nn.Module
    divergence: Divergence
    temperature: float
    num_common: int

    def __call__(self, student_hidden_NE: Tensor, teacher_hidden_NE: Tensor, token_N: Tensor) -> tuple[Tensor, ...]:
        """The fields of TokenDivergences, in their order."""
        student_NV, teacher_NV = self._both(student_hidden_NE, teacher_hidden_NE, token_N.device)
        learned = self._learned(student_NV, teacher_NV, token_N)
        with torch.no_grad():
            return *learned, _at(teacher_NV, token_N), _entropy(student_NV), _entropy(teacher_NV)

    def learned(self, student_hidden_NE: Tensor, teacher_hidden_NE: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        """The two that have gradients."""
        student_NV, teacher_NV = self._both(student_hidden_NE, teacher_hidden_NE, token_N.device)
        return self._learned(student_NV, teacher_NV, token_N)

    def _both(
        self, student_hidden_NE: Tensor, teacher_hidden_NE: Tensor, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            teacher_NV = self._logprobs(self.teacher_head, teacher_hidden_NE).to(device)
        return self._logprobs(self.student_head, student_hidden_NE), teacher_NV

    def _logprobs(self, head: nn.Module, hidden_NE: Tensor) -> Tensor:
        logits_NV: Tensor = head(hidden_NE)
        logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)) / self.temperature
        return torch.log_softmax(logits_NV, dim=-1)

    def _learned(self, student_NV: Tensor, teacher_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        return self.divergence(self._common(student_NV), self._common(teacher_NV)), _at(student_NV, token_N)

    def _common(self, logprobs_NV: Tensor) -> Tensor:
        if logprobs_NV.shape[-1] == self.num_common:
            return logprobs_NV
        return torch.log_softmax(logprobs_NV[:, : self.num_common], dim=-1)


def _at(logprobs_NV: Tensor, token_N: Tensor) -> Tensor:
    return logprobs_NV.gather(-1, token_N[:, None])[:, 0]


def _entropy(logprobs_NV: Tensor) -> Tensor:
    # clamped, as 0 * -inf is not 0
    return -logprobs_NV.exp().mul_(logprobs_NV.clamp(min=torch.finfo(torch.float32).min)).sum(-1)


def _in_chunks(
    compare: _Comparison, chunk: int, student_hidden_NE: Tensor, teacher_hidden_NE: Tensor, token_N: Tensor
) -> tuple[Tensor, ...]:
    """The comparison of all tokens, `chunk` at a time."""
    if torch.is_grad_enabled() and len(token_N) > chunk:
        parameters = [parameter for parameter in compare.student_head.parameters() if parameter.requires_grad]
        results: tuple[Tensor, ...] = _Recomputed.apply(  # type: ignore[no-untyped-call]
            compare, chunk, student_hidden_NE, teacher_hidden_NE, token_N, *parameters
        )
        return results
    pieces = [compare(*piece) for piece in _pieces(chunk, student_hidden_NE, teacher_hidden_NE, token_N)]
    return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))


def _pieces(chunk: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(tensor, chunk) for tensor in tensors), strict=True)


class _Recomputed(torch.autograd.Function):
    """`_in_chunks` whose backward pass computes one chunk again at a time.

    torch's checkpoint would do for float32. It adds up the head's gradient over the chunks in the head's precision,
    though, and in bfloat16 the later of a hundred chunks would be rounded away; here the sum is float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        compare: _Comparison,
        chunk: int,
        student_hidden_NE: Tensor,
        teacher_hidden_NE: Tensor,
        token_N: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(student_hidden_NE, teacher_hidden_NE, token_N, *parameters)
        ctx.compare, ctx.chunk = compare, chunk
        results = _in_chunks(compare, chunk, student_hidden_NE, teacher_hidden_NE, token_N)
        ctx.mark_non_differentiable(*results[2:])
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads_N: Tensor) -> tuple[Tensor | None, ...]:
        student_hidden_NE, teacher_hidden_NE, token_N, *parameters = ctx.saved_tensors
        hidden_grads: list[Tensor] = []
        totals = [_zeros(parameter) for parameter in parameters]
        for student, teacher, token, *grads in _pieces(
            ctx.chunk, student_hidden_NE, teacher_hidden_NE, token_N, *grads_N[:2]
        ):
            leaf_NE = student.detach().requires_grad_()
            with torch.enable_grad():
                learned = ctx.compare.learned(leaf_NE, teacher, token)
            hidden_grad_NE, *new = torch.autograd.grad(learned, (leaf_NE, *parameters), grads)
            hidden_grads.append(hidden_grad_NE)
            for total, addend in zip(totals, new, strict=True):
                total += addend
        sums = (total.to(parameter.dtype) for total, parameter in zip(totals, parameters, strict=True))
        return None, None, torch.cat(hidden_grads), None, None, *sums


def _zeros(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
