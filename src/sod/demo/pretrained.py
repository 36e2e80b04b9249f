"""The demo's tokenizer, chat template and two model sizes: Qwen3's architecture and dialogue format, made small.

Everything downstream loads them from a directory like any other model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sod.config import ToolConfig
from sod.demo import world
from sod.tools import interpreter_schema

VOCABULARY_SIZE = 640
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
SIZES: Mapping[str, Mapping[str, Any]] = {
    "student": {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 288},
    "teacher": {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 384},
}

CHAT_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n' }}{%- endif %}
    {{- 'Tools:\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {%- if message.content or not loop.first %}{{- '\\n' }}{%- endif %}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def make_tokenizer(*, seed: int = 0, num_traces: int = 2000) -> Any:
    """Byte-level BPE over the demo's own text, one token a digit, with Qwen3's control tokens and tags."""
    return train_tokenizer(
        _corpus(num_traces, seed=seed),
        # Words keep their leading space, digits stand alone, punctuation runs hold together: as Qwen's splitting does.
        pattern=r"\d| ?[A-Za-z_]+| ?[^\sA-Za-z_\d]+|\s+",
        vocabulary_size=VOCABULARY_SIZE,
        tags=TAGS,
        template=CHAT_TEMPLATE,
    )


def train_tokenizer(
    corpus: Iterator[str], *, pattern: str, vocabulary_size: int, tags: Sequence[str], template: str
) -> Any:
    """Byte-level BPE of at most so many tokens, CONTROL_TOKENS first, tags last; none crosses a match of `pattern`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern=Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(tags),
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def make_model(size: str, *, seed: int) -> Any:
    """A freshly initialised Qwen3 of the given size ("student" or "teacher")."""
    return small_qwen3(SIZES[size], vocabulary_size=VOCABULARY_SIZE, max_length=2048, seed=seed)


def small_qwen3(shape: Mapping[str, Any], *, vocabulary_size: int, max_length: int, seed: int) -> Any:
    """A freshly initialised Qwen3 of any shape, for a tokenizer of `train_tokenizer`."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=vocabulary_size,
        head_dim=shape["hidden_size"] // shape["num_attention_heads"],
        num_key_value_heads=shape["num_attention_heads"],
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=CONTROL_TOKENS.index("<|im_end|>"),
        pad_token_id=CONTROL_TOKENS.index("<|endoftext|>"),
        **shape,
    )
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config)


def write_model(size: str, directory: Path, *, seed: int) -> None:
    """Write a fresh model with its tokenizer, ready to be cold-started."""
    make_model(size, seed=seed).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)


def _corpus(num_traces: int, *, seed: int) -> Iterator[str]:
    """The demo's dialogues as the template writes them."""
    template = _compiled(CHAT_TEMPLATE)
    for trace in world.traces(num_traces, seed=seed):
        yield template.render(messages=trace, tools=[interpreter_schema(ToolConfig())], add_generation_prompt=False)


def _compiled(template: str) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(template)
