"""What is needed of a tokenizer, and how one is loaded."""

from __future__ import annotations

from typing import Any, Protocol

from sod.errors import ModelError


class Tokenizer(Protocol):
    """What is used of a tokenizer; every fast tokenizer of transformers fits."""

    chat_template: Any
    eos_token_id: Any
    all_special_tokens: Any

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Text to token ids."""
        ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        """Token ids to text."""
        ...

    def get_vocab(self) -> dict[str, int]:
        """All tokens and their ids."""
        ...

    def save_pretrained(self, save_directory: str) -> Any:
        """Write the tokenizer's files, template included."""
        ...

    def get_added_vocab(self) -> dict[str, int]:
        """Tokens that were added to the vocabulary (special or not) and their ids."""
        ...

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None,
        tokenize: bool,
        add_generation_prompt: bool,
        enable_thinking: bool,
    ) -> Any:
        """A dialogue as text (with `tokenize=False`)."""
        ...


def load_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a local directory or hub id, never running code that comes with it.

    Raises ModelError when there is none or it has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        loaded: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds here, from OSError to KeyError
        raise ModelError(
            f"{path}: must hold a tokenizer that transformers can load, got {type(error).__name__}: {error}; "
            "give a directory with tokenizer.json and tokenizer_config.json, or a hub id"
        ) from error
    tokenizer: Tokenizer = loaded
    need_template(tokenizer, where=path)
    return tokenizer


def need_template(tokenizer: Tokenizer, *, where: str) -> None:
    """Raises ModelError for a tokenizer without a chat template."""
    if not tokenizer.chat_template:
        raise ModelError(
            f"{where}: the tokenizer must have a chat template, got none; use an instruct model, "
            "or put a chat_template.jinja beside its tokenizer.json"
        )
