"""Messages -> token ids, token ids -> tool calls. The only place that knows a chat template.

    chat = Chat(load_tokenizer("Qwen/Qwen3-0.6B"), tools=[schema])
    prompt = chat.prompt_ids(messages)              # tokens the student continues
    reading = chat.read(sampled)                    # its turn as text and tool calls
    follow = chat.observation_ids(["42\\n"])         # tokens after its stop token, through the next generation prompt

`template` says how a dialogue is made of parts, `calls` how the text of a turn is read.
"""

from sod.chat.calls import parse_calls
from sod.chat.template import Chat, Reading, TokenRecord
from sod.chat.tokenizer import Tokenizer, load_tokenizer

__all__ = ["Chat", "Reading", "TokenRecord", "Tokenizer", "load_tokenizer", "parse_calls"]
