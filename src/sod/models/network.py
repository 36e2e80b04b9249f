"""A causal language model as two callables, decoder and head, with what the rest needs to know of it.

Splitting the model lets callers pick hidden states before the head: logits exist for the tokens that are wanted.

Shapes: B sequence, T token, N packed token, E hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from sod.errors import ModelError
from sod.models.cache import RowCache
from sod.models.packing import ATTENTION, PackedCache, Packing

__all__ = ["Network"]

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.08, torch.float16: 0.02}


class Network:
    """Decoder and head of a transformers causal language model with full attention.

    Raises ModelError for a model that has no such parts, or for which they do not add up to the model.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = cast(Any, module)
        _refuse_windows(self.module.config)
        self._decoder: Any = self.module.get_decoder()
        self.head: Any = self.module.get_output_embeddings()
        if self._decoder is None or self._decoder is module or self.head is None:
            raise ModelError(f"a model must have a decoder and an output head, got {type(module).__name__}")
        text_config = self.module.config.get_text_config()
        self.vocab_size = int(text_config.vocab_size)
        self.max_length = int(text_config.max_position_embeddings)
        self.kv_bytes_per_token = 0
        self._no_mask = torch.zeros(1, 1, 1, 1, device=self.device, dtype=self.dtype)
        self._check()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of hidden states."""
        return self.head.weight.dtype  # type: ignore[no-any-return]

    def hidden_packed(self, token_N: Tensor, *, packing: Packing, cache: PackedCache | None = None) -> Tensor:
        """Hidden states (N, E) of sequences laid end to end; each sees itself and what the cache kept of it."""
        if cache is None and token_N.device.type == "cpu" and packing.nearly_even:
            return self._hidden_rows(token_N, packing)
        output = self._decoder(
            input_ids=token_N[None],
            position_ids=packing.positions(),
            # Our attention takes no mask; without one of four dimensions transformers would make an (N, N) one.
            attention_mask=self._no_mask,
            past_key_values=cache,
            use_cache=cache is not None,
            packing=packing,
        )
        return output.last_hidden_state[0]  # type: ignore[no-any-return]

    def _hidden_rows(self, token_N: Tensor, packing: Packing) -> Tensor:
        """The same, one row a sequence, padded on the right: causal attention cannot see padding and needs no mask."""
        inside_BT = packing.inside()
        token_BT = token_N.new_zeros(inside_BT.shape).masked_scatter_(inside_BT, token_N)
        output = self._decoder(input_ids=token_BT, use_cache=False)
        return output.last_hidden_state[inside_BT]  # type: ignore[no-any-return]

    def hidden_cached(
        self, token_BT: Tensor, *, cache: RowCache, position_BT: Tensor | None = None, mask_B1TT: Tensor | None = None
    ) -> Tensor:
        """Hidden states with keys and values written to a cache that was aimed; no mask for a fresh prompt."""
        output = self._decoder(
            input_ids=token_BT,
            position_ids=position_BT,
            attention_mask=mask_B1TT,
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def logits(self, hidden_NE: Tensor) -> Tensor:
        """(N, V) in the model's own precision."""
        return self.head(hidden_NE)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def _check(self) -> None:
        """Compare decoder, caches and head with the whole model and its own attention on four tokens: scaled or capped
        logits and unusual caches would make every log-prob quietly wrong. From here on the attention is ours."""
        name = type(self.module).__name__
        token_T = torch.arange(4, device=self.device) % self.vocab_size
        try:
            expected_TV = self.module(input_ids=token_T[None], use_cache=False).logits[0].float()
            self.module.set_attn_implementation(ATTENTION)
            ways = [self._in_two_pieces(token_T[None])[0], *self._packed_in_two_pieces(token_T)]
            got = [self.logits(hidden_TE).float() for hidden_TE in ways]
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ModelError(f"{name} cannot be driven with a cache of our own: {error}") from error
        size = expected_TV.abs().max().clamp(min=1e-3)
        gaps = [float((expected_TV - got_TV).abs().max() / size) for got_TV in got]
        if not all(gap <= _TOLERANCE[self.dtype] for gap in gaps):
            raise ModelError(
                f"decoder and head must add up to the model, but logits of {name} differ by {max(gaps):.2g} of "
                " their size (or are not finite); models with scaled logits or unusual attention are not supported"
            )

    def _in_two_pieces(self, token_BT: Tensor) -> Tensor:
        cache = RowCache()
        cache.reserve(rows=1, tokens=8)
        cache.aim_fresh(first=0, last=1, length=2)
        first = self.hidden_cached(token_BT[:, :2], cache=cache)
        start_R = torch.tensor([2], device=self.device)
        cache.aim_extension(start_R, first=0, num_tokens=2, length=8)
        second = self.hidden_cached(
            token_BT[:, 2:],
            cache=cache,
            position_BT=start_R[:, None] + torch.arange(2, device=self.device),
            mask_B1TT=causal_mask(start_R, num_tokens=2, length=8, dtype=self.dtype),
        )
        self.kv_bytes_per_token = cache.bytes_per_token
        return torch.cat([first, second], dim=1)

    def _packed_in_two_pieces(self, token_T: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens whole, and beside them cut in two."""
        packing = Packing.of([4, 2], device=self.device)
        cache = PackedCache(packing, kept=[None, None], wanted=[0, 2])
        hidden_NE = self.hidden_packed(torch.cat([token_T, token_T[:2]]), packing=packing, cache=cache)
        kept = cache.parked(1, tuple(token_T[:2].tolist()))
        packing = Packing.of([2], num_kept=[2], device=self.device)
        cache = PackedCache(packing, kept=[kept], wanted=[0])
        last_NE = self.hidden_packed(token_T[2:], packing=packing, cache=cache)
        return hidden_NE[:4], torch.cat([hidden_NE[4:], last_NE])


def causal_mask(start_R: Tensor, *, num_tokens: int, length: int, dtype: torch.dtype) -> Tensor:
    """Additive mask (R, 1, num_tokens, length): token t of a row sees keys 0 .. start + t; 0 is seen, -inf is not."""
    position_RT = start_R[:, None] + torch.arange(num_tokens, device=start_R.device)
    hidden = torch.arange(length, device=start_R.device) > position_RT[:, :, None]
    return torch.zeros(hidden.shape, dtype=dtype, device=start_R.device).masked_fill_(hidden, -torch.inf)[:, None]


def _refuse_windows(config: Any) -> None:
    """Sliding windows and recurrent layers forget; our cache does not."""
    values = config.get_text_config().to_dict()
    kinds = set(values.get("layer_types") or ())
    if not kinds and values.get("sliding_window") is not None:
        kinds = {"sliding_attention"}
    if kinds - {"full_attention"}:
        raise ModelError(
            f"every layer must use full attention, got {sorted(kinds)}; choose a model without sliding windows or "
            "recurrent layers (Qwen3, Llama)"
        )
