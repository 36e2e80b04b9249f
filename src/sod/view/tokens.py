"""Texts of a run's tokens, by its own tokenizer.json; neither torch nor transformers is needed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sod.report.untrusted import mapping, read_object
from sod.view.text import visible

MAX_BYTES = 256 << 20
"""A larger tokenizer.json is no tokenizer."""
_FILE = "tokenizer.json"


class TokenTexts:
    """What tokens say: `TokenTexts.of_run(Path("runs/a"))`; without a tokenizer everything is None."""

    def __init__(self, tokenizer: Any = None, *, byte_level: bool = False) -> None:
        self._tokenizer = tokenizer
        self._bytes = _byte_alphabet() if byte_level else None
        self._known: dict[int, str | None] = {}

    @staticmethod
    def of_run(run: Path) -> TokenTexts:
        """By the first tokenizer found: of a checkpoint, then of the model that the config names."""
        for path in _candidates(run):
            try:
                if not path.is_file() or path.stat().st_size > MAX_BYTES:
                    continue
                return _read(path)
            except BaseException as error:  # a damaged one panics in its own way
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
        return TokenTexts()

    def __bool__(self) -> bool:
        return self._tokenizer is not None

    def each(self, token_ids: Sequence[int]) -> list[str | None] | None:
        r"""One text per token, None for an id that is not in the vocabulary; None without a tokenizer.

        A token that is part of a character is spelled in bytes: `"\\xe2\\x82"`.
        """
        if self._tokenizer is None:
            return None
        if self._bytes is None:
            return list(self._by_neighbours(token_ids))
        return [self._by_bytes(token_id) for token_id in token_ids]

    def whole(self, token_ids: Sequence[int]) -> str | None:
        """The text of tokens together, special ones written out; None without a tokenizer."""
        if self._tokenizer is None:
            return None
        known = [token_id for token_id in token_ids if self._tokenizer.id_to_token(token_id) is not None]
        return visible(self._tokenizer.decode(known, skip_special_tokens=False))

    def _by_bytes(self, token_id: int) -> str | None:
        if token_id not in self._known:
            self._known[token_id] = self._spelled(token_id)
        return self._known[token_id]

    def _spelled(self, token_id: int) -> str | None:
        assert self._bytes is not None
        piece = self._tokenizer.id_to_token(token_id)
        if piece is None:
            return None
        if any(character not in self._bytes for character in piece):  # an added token stands for itself
            return visible(piece)
        raw = bytes(self._bytes[character] for character in piece)
        try:
            return visible(raw.decode())
        except UnicodeDecodeError:
            return "".join(f"\\x{byte:02x}" for byte in raw)

    def _by_neighbours(self, token_ids: Sequence[int]) -> Iterator[str | None]:
        """What a token adds to the one before it: alone it may lose its leading blank."""
        before: list[int] = []
        for token_id in token_ids:
            if self._tokenizer.id_to_token(token_id) is None:
                yield None
                continue
            text = self._tokenizer.decode([*before, token_id], skip_special_tokens=False)
            first = self._tokenizer.decode(before, skip_special_tokens=False) if before else ""
            yield visible(text.removeprefix(first))
            before = [token_id]


def _candidates(run: Path) -> Iterator[Path]:
    yield from sorted(run.glob(f"checkpoints/*/model/{_FILE}"), reverse=True)
    config = read_object(run / "config.json")
    roots = [Path(), *run.resolve().parents[:8]]  # a config's paths are from where the command was run
    for section in ("student", "model"):
        path = mapping(config.get(section)).get("path")
        if isinstance(path, str) and path and "\0" not in path:
            yield from (root / path / _FILE for root in roots)
            yield from _downloaded(path)


def _downloaded(name: str) -> Iterator[Path]:
    """The tokenizer of a model of the hub, where it is on this disk."""
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, _FILE)
    except (ImportError, ValueError, OSError):  # its errors of names are ValueErrors
        return
    if isinstance(found, str):
        yield Path(found)


def _read(path: Path) -> TokenTexts:
    from tokenizers import Tokenizer

    text = path.read_text(encoding="utf-8")
    return TokenTexts(Tokenizer.from_str(text), byte_level=_is_byte_level(mapping(json.loads(text))))


def _is_byte_level(values: Mapping[str, Any]) -> bool:
    decoder = mapping(values.get("decoder"))
    parts = decoder.get("decoders") if isinstance(decoder.get("decoders"), list) else [decoder]
    return any(mapping(part).get("type") == "ByteLevel" for part in parts or [])


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level vocabularies write bytes: printable Latin-1 as it is, the rest from 256 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(others)}
