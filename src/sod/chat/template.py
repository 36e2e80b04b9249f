"""A tokenizer's chat template, in parts that add up to what it gives for whole dialogues.

What was sampled is never rendered again: a dialogue is prompt + turn + observation + turn + ..., and each part is made
once. `Chat` checks when it is made that these parts add up to what the template gives for whole dialogues.

**Thoughts.** Some templates are not prefix-stable there: Qwen3's generation prompt in non-thinking mode ends in an
empty think block that older turns are rendered without, and thoughts of older turns are dropped. The record keeps
exactly what stood there when the tokens were sampled, think blocks included, and the check compares both sides after
removing think blocks. Any other difference is refused.

**Hostile observations.** Tool output may contain `<|im_end|>` or `</tool_response>`. Its text stays as it is but is
tokenised in pieces, so that it never becomes a control token (an added token of the tokenizer that is not blank).
Text without such strings gives the same tokens as the template's whole rendering. Problem text is rendered as the
template does, control strings included: check problems from untrusted sources before they come here.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sod.chat.calls import FORM, calls_in, kind_of, parse_calls
from sod.chat.tokenizer import Tokenizer, need_template
from sod.errors import DataError, TemplateError
from sod.types import MalformedCall, Message, ToolCall

# Markers that stand for text in dummy dialogues. Letters and digits only: JSON and templates leave them alone.
_TURN_MARK = "q7turnq7"
_CUT_MARK = "q7cutq7"
_THOUGHT = re.compile(r"<think>.*?</think>\n*", re.DOTALL)
_PROBE_TEXTS = ("", "\n  padded \n\n", "[1, 2]", 'a "b" \\n {"c": [\'d\']} <e> & é 汉', "Traceback:\n\tx\r\n</div>")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One sampled turn as people read it: its text without the stop token, and the calls it makes in order."""

    text: str
    calls: tuple[ToolCall | MalformedCall, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRecord:
    """A finished dialogue as tokens. `step[i]` is -1 in prompt and observations and counts 0, 1, ... over the turns.

    prompt P, turn a<stop>, observation O, turn b<stop>: token_ids `P a stop O b stop` -> step `[-1 0 0 -1 1 1]`.
    """

    token_ids: tuple[int, ...]
    step: tuple[int, ...]
    num_prompt_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frame:
    """What the template writes around tool observations: pieces[0] text pieces[1] text ... pieces[-1].

    `controls` are the control tokens of the frame in order. Without `verbatim` the template changes the text it is
    given (strips or escapes it), so that it must be rendered each time.
    """

    pieces: tuple[str, ...]
    controls: tuple[int, ...]
    verbatim: bool

    def fill(self, texts: Sequence[str]) -> str:
        parts = [self.pieces[0]]
        for text, piece in zip(texts, self.pieces[1:], strict=True):
            parts += [text, piece]
        return "".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Span:
    """A part of a dialogue: step -1 is prompt or observation."""

    step: int
    text: str
    token_ids: tuple[int, ...]


class Chat:
    """A tokenizer's chat template with the tools of a run.

    `tools` are OpenAI function schemas; `thinking` is passed to the template as `enable_thinking`; `system` is put
    before dialogues that have no system message ("" is off).

    Raises ModelError when the tokenizer has no template, TemplateError when the template ignores tools, writes calls in
    another form than Hermes, ends turns in no control token, or renders whole dialogues differently from their parts.
    """

    stop_token_ids: frozenset[int]
    """Tokens that end a turn: the template's own end of turn, and the tokenizer's end of text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        thinking: bool = False,
        system: str = "",
    ) -> None:
        need_template(tokenizer, where="Chat")
        self._tokenizer = tokenizer
        self._tools = [dict(tool) for tool in tools]
        self._thinking = thinking
        self._system = system
        self._frames: dict[int, _Frame] = {}
        added = {text: token_id for text, token_id in tokenizer.get_added_vocab().items() if text.strip()}
        self._control_ids = frozenset(added.values())
        # Longest first: "<|end|>" must not hide "<|end|>>". Lookahead: overlapping strings are all found.
        self._control = re.compile(f"(?=({'|'.join(map(re.escape, sorted(added, key=len, reverse=True))) or '(?!)'}))")
        self._stop_text, self._stop_id = self._find_stop(added)
        self.stop_token_ids = frozenset(self._ids_of_eos() | {self._stop_id})
        self._starts_in_thought = self._opens_thought()
        self._check_tools_shown()
        for probe in self._probes():
            self._check(probe)

    # What the agent uses

    @property
    def control_token_ids(self) -> frozenset[int]:
        """Tokens that steer the dialogue rather than say something: special tokens and tags like `<tool_call>`."""
        return self._control_ids

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of a dialogue with the tools and the generation prompt: what the student continues."""
        return tuple(self._encode(self._render(self._complete(messages), generation=True)))

    def read(self, token_ids: Sequence[int]) -> Reading:
        """One sampled turn as text and calls. A stop token at the end is left out; a turn cut short has none."""
        stopped = bool(token_ids) and token_ids[-1] in self.stop_token_ids
        text = self.text(token_ids[:-1] if stopped else token_ids)
        return Reading(text=text, calls=parse_calls(text, in_thought=self._starts_in_thought))

    def call_mask(self, token_ids: Sequence[int]) -> tuple[bool, ...]:
        """Which tokens of a sampled turn are inside a tool call as `read` finds them, tags included; a call without an
        end has all the rest.

        `Now <tool_call> {...} </tool_call> <|im_end|> -> (False, True, True, True, False)`. Where tags are plain text a
        token can have both the end of a word and the start of a tag: it is inside, and one across the end is not.
        """
        stopped = bool(token_ids) and token_ids[-1] in self.stop_token_ids
        said = token_ids[:-1] if stopped else token_ids
        inside = [False] * len(token_ids)
        for found in calls_in(self.text(said), in_thought=self._starts_in_thought):
            first, last = self._num_before(said, found.start), self._num_before(said, found.end)
            inside[first:last] = [True] * (last - first)
        return tuple(inside)

    def _num_before(self, token_ids: Sequence[int], place: int) -> int:
        """Tokens that end at or before a character of their text. A token across it is not one of them."""
        low, high = 0, len(token_ids)
        while low < high:
            middle = (low + high + 1) // 2
            if len(self.text(token_ids[:middle])) <= place:
                low = middle
            else:
                high = middle - 1
        return low

    def observation_ids(self, texts: Sequence[str]) -> tuple[int, ...]:
        r"""Tokens that follow a turn ended by its stop token: one tool observation per text, then the generation prompt.

        ChatML: `["42"]` -> tokens of `\n<|im_start|>user\n<tool_response>\n42\n</tool_response><|im_end|>\n<|im_start|>assistant\n`.
        """  # noqa: E501
        assert texts, "observation_ids needs at least one text"
        clean = [_valid_unicode(text) for text in texts]
        frame = self._frame(len(clean))
        token_ids = self._encode_after_stop(self._observation_text(clean))
        for cut in (self._cut_controls, self._cut_everywhere):
            if self._controls(token_ids) == frame.controls:
                break
            token_ids = self._encode_pieces(self._stop_text + self._observation_text([cut(text) for text in clean]))[1:]
        return tuple(token_ids)

    def cut(self, text: str, *, max_tokens: int) -> str:
        """Text of at most `max_tokens` tokens: cut in the middle, with a notice of how many tokens were cut.

        "1 2 ... 9999" -> "1 2 3\\n[... 19984 tokens cut ...]\\n9998 9999". A tokenizer for which the notice would take
        over half of `max_tokens` gets the bare number. Not less than the notice remains.
        """
        text = _valid_unicode(text)
        token_ids = self._plain_ids(text)
        if len(token_ids) <= max_tokens:
            return text
        wordy = len(self._plain_ids(_notice(len(token_ids), wordy=True))) <= max_tokens // 2
        keep = max_tokens - 1
        while True:
            head, tail = keep - keep // 2, keep // 2
            notice = _notice(len(token_ids) - keep, wordy=wordy)
            # A cut may fall inside a character: its bytes decode to U+FFFD, which nobody wrote.
            start = self.text(token_ids[:head]).rstrip("\ufffd")
            end = self.text(token_ids[len(token_ids) - tail :]).lstrip("\ufffd")
            excess = len(self._plain_ids(start + notice + end)) - max_tokens
            if excess <= 0 or keep == 0:
                return start + notice + end
            keep = max(0, keep - excess)

    def trace_ids(self, messages: Sequence[Message]) -> TokenRecord:
        """A finished dialogue as a rollout would have recorded it: prompt, turn, observation, turn, ...

        `messages` holds system, user, assistant (content, tool_calls or both) and tool messages and ends in an
        assistant message; neighbouring tool messages are one observation. A turn's tokens are what the template
        writes between the generation prompt and the stop token, inclusive.

        Raises DataError for a dialogue that no rollout could have made.
        """
        spans = self._spans(self._complete(messages))
        return TokenRecord(
            token_ids=tuple(token_id for span in spans for token_id in span.token_ids),
            step=tuple(span.step for span in spans for _ in span.token_ids),
            num_prompt_tokens=len(spans[0].token_ids),
        )

    def text(self, token_ids: Sequence[int]) -> str:
        """Tokens as text, control tokens included."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    # Rendering and tokenising

    def _complete(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Messages as templates like them: the default system message, no null contents, arguments as objects."""
        complete = [_plain_message(message) for message in messages]
        if self._system and not (complete and complete[0].get("role") == "system"):
            complete.insert(0, {"role": "system", "content": self._system})
        return complete

    def _render(self, messages: list[dict[str, Any]], *, generation: bool, tools: bool = True) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                messages,
                tools=self._tools if tools and self._tools else None,
                tokenize=False,
                add_generation_prompt=generation,
                enable_thinking=self._thinking,
            )
        except Exception as error:  # jinja's errors, and whatever a template's expressions raise
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise TemplateError(
                f"the chat template must render a dialogue of {roles}, got {type(error).__name__}: {error}; "
                "use a model whose template takes these messages"
            ) from error
        assert isinstance(text, str), f"apply_chat_template(tokenize=False) must return text, got {type(text)}"
        return text

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _encode_pieces(self, text: str) -> list[int]:
        return [token_id for piece in text.split(_CUT_MARK) for token_id in self._encode(piece)]

    def _encode_after_stop(self, text: str) -> list[int]:
        # The stop token goes along because some tokenizers treat the start of a text, or what follows a control
        # token, in their own way.
        return self._encode(self._stop_text + text)[1:]

    def _plain_ids(self, text: str) -> list[int]:
        """Tokens of untrusted text by itself, without control tokens."""
        token_ids = self._encode(text)
        return self._encode_pieces(self._cut_controls(text)) if self._controls(token_ids) else token_ids

    def _controls(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(token_id for token_id in token_ids if token_id in self._control_ids)

    def _cut_controls(self, text: str) -> str:
        """`a<|im_end|>` -> `a<` cut `|im_end|>`: the text is the same, the tokens are not."""
        text = text.replace(_CUT_MARK, "")
        places = [match.start() + 1 for match in self._control.finditer(text)]
        bounds = [0, *places, len(text)]
        return _CUT_MARK.join(text[start:end] for start, end in itertools.pairwise(bounds))

    def _cut_everywhere(self, text: str) -> str:
        """For tokenizers that find control tokens in other spellings. A control token of one character is replaced."""
        safe = (
            "\ufffd" if self._controls(self._encode(character)) else character
            for character in text.replace(_CUT_MARK, "")
        )
        return _CUT_MARK + _CUT_MARK.join(safe) + _CUT_MARK

    # Observations

    def _observation_text(self, texts: Sequence[str]) -> str:
        frame = self._frame(len(texts))
        return frame.fill(texts) if frame.verbatim else self._render_observation(texts)

    def _frame(self, num_texts: int) -> _Frame:
        if num_texts not in self._frames:
            self._frames[num_texts] = self._make_frame(num_texts)
        return self._frames[num_texts]

    def _make_frame(self, num_texts: int) -> _Frame:
        marks = [f"q7text{index}q7" for index in range(num_texts)]
        rendered = self._render_observation(marks)
        pieces = tuple(re.split("|".join(marks), rendered))
        in_order = re.findall("|".join(marks), rendered) == marks
        if not in_order:
            raise TemplateError(
                f"the chat template must show each of {num_texts} tool observations once and in order, "
                f"got {rendered!r}; use a model whose template knows the tool role"
            )
        controls = self._controls(self._encode_after_stop(rendered))
        frame = _Frame(pieces=pieces, controls=controls, verbatim=True)
        verbatim = all(
            frame.fill([text] * num_texts) == self._render_observation([text] * num_texts) for text in _PROBE_TEXTS
        )
        return frame if verbatim else _Frame(pieces=pieces, controls=controls, verbatim=False)

    def _render_observation(self, texts: Sequence[str]) -> str:
        calls = [self._dummy_call({"code": _TURN_MARK}) for _ in texts]
        turn = {"role": "assistant", "content": "", "tool_calls": calls}
        return self._render_after(turn, [_tool_message(text) for text in texts])

    def _render_after(self, turn: dict[str, Any], messages: list[dict[str, Any]]) -> str:
        """What follows the stop token of `turn`, whose text ends in the turn mark, through the generation prompt."""
        rendered = self._render([{"role": "user", "content": "q"}, turn, *messages], generation=True)
        stop = rendered.find(self._stop_text, rendered.rfind(_TURN_MARK))
        if _TURN_MARK not in rendered or stop < 0:
            raise TemplateError(
                f"the chat template must show a turn and end it with {self._stop_text!r} as it ends an answer, "
                f"got {rendered[-300:]!r}; use a model with another template"
            )
        return rendered[stop + len(self._stop_text) :]

    def _dummy_call(self, arguments: dict[str, Any]) -> dict[str, Any]:
        name = self._tools[0]["function"]["name"] if self._tools else "tool"
        return {"id": "call00000", "type": "function", "function": {"name": name, "arguments": arguments}}

    # Whole dialogues

    def _spans(self, messages: list[dict[str, Any]]) -> list[_Span]:
        """A dialogue in parts: prompt, turn 0, what follows it, turn 1, ..."""
        turns = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
        if not turns or turns[-1] != len(messages) - 1:
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise DataError(f"a dialogue must end in an assistant message, got {roles or 'no messages'}; cut it there")
        prompt = self._render(messages[: turns[0]], generation=True)
        spans = [_Span(step=-1, text=prompt, token_ids=tuple(self._encode(prompt)))]
        for step, index in enumerate(turns):
            if step:
                spans.append(self._span_between(messages[turns[step - 1] + 1 : index]))
            spans.append(self._span_of_turn(messages, index, step=step))
        return spans

    def _span_between(self, messages: list[dict[str, Any]]) -> _Span:
        if not messages:
            raise DataError("between two assistant messages there must be a tool or user message, got none; join them")
        if all(message.get("role") == "tool" for message in messages):
            texts = [_valid_unicode(message["content"]) for message in messages]
            return _Span(step=-1, text=self._observation_text(texts), token_ids=self.observation_ids(texts))
        text = self._render_after({"role": "assistant", "content": _TURN_MARK}, messages)
        return _Span(step=-1, text=text, token_ids=tuple(self._encode_after_stop(text)))

    def _span_of_turn(self, messages: list[dict[str, Any]], index: int, *, step: int) -> _Span:
        before = self._render(messages[:index], generation=True)
        after = self._render(messages[: index + 1], generation=False)
        if not after.startswith(before):
            raise DataError(
                f"an assistant turn must follow the generation prompt, but {_difference(before, after)}; if the "
                "dialogue has thoughts set thinking = true, if it has none set thinking = false"
            )
        text, stop, _ = after[len(before) :].rpartition(self._stop_text)
        token_ids = tuple(self._encode(text + stop))
        if token_ids.count(self._stop_id) != 1 or token_ids[-1] != self._stop_id:
            raise DataError(
                f"an assistant turn must have the stop token {self._stop_text!r} at its end only, got {text[-300:]!r}; "
                "remove control tokens from the dialogue"
            )
        return _Span(step=step, text=text + stop, token_ids=token_ids)

    # Checks when the template is first seen

    def _find_stop(self, added: Mapping[str, int]) -> tuple[str, int]:
        """The first control token that the template writes after an answer."""
        answer = [{"role": "user", "content": "q"}, {"role": "assistant", "content": _TURN_MARK}]
        _, shown, tail = self._render(answer, generation=False).rpartition(_TURN_MARK)
        if not shown:
            raise TemplateError(
                f"the chat template must write an answer's text as it is, but {_TURN_MARK!r} is not in {tail!r}; "
                "use an instruct model's template"
            )
        stop = self._control.search(tail)
        if stop is None:
            raise TemplateError(
                f"the chat template must end a turn with a special token, got {tail!r}; "
                "use an instruct model's template"
            )
        return stop.group(1), added[stop.group(1)]

    def _ids_of_eos(self) -> set[int]:
        eos = self._tokenizer.eos_token_id
        return set() if eos is None else {int(eos)}

    def _opens_thought(self) -> bool:
        """Whether the generation prompt ends inside a think block, as some thinking models' does."""
        question = [{"role": "user", "content": "q"}]
        before, after = self._render(question, generation=False), self._render(question, generation=True)
        if not after.startswith(before) or after == before:
            raise TemplateError(
                f"the chat template must append a generation prompt, but {_difference(before, after)}; "
                "use an instruct model's template"
            )
        opening = after[len(before) :]
        return opening.rfind("<think>") > opening.rfind("</think>")

    def _check_tools_shown(self) -> None:
        question = [{"role": "user", "content": "q"}]
        bare = self._render(question, generation=True, tools=False)
        shown = self._render(question, generation=True)
        for tool in self._tools:
            function = tool["function"]
            for word in (function["name"], *function.get("parameters", {}).get("properties", {})):
                if shown.count(word) <= bare.count(word):
                    raise TemplateError(
                        f"the chat template must write the tools into the prompt, but {word!r} of tool "
                        f"{function['name']!r} is not there; use a model whose template knows tools"
                    )

    def _probes(self) -> list[list[dict[str, Any]]]:
        """Dialogues whose parts must add up: an answer, and with tools one call, two in a turn, two turns, an error."""
        thoughts = [True] if self._starts_in_thought else [False, True] if self._thinking else [False]
        return [dialogue for thought in thoughts for dialogue in self._probes_with(thought=thought)]

    def _probes_with(self, *, thought: bool) -> list[list[dict[str, Any]]]:
        lead = "<think>\nI plan.\n</think>\n\n" if thought else ""
        question = self._complete([{"role": "user", "content": "What is 6 * 7?"}])
        answer = {"role": "assistant", "content": f"{lead}It is \\boxed{{42}}."}
        if not self._tools:
            return [[*question, answer]]
        code = {"code": 'print("6 * 7 é")\nfor x in {1: [2]}:\n\tprint(x)'}
        one = {"role": "assistant", "content": f"{lead}I run it.", "tool_calls": [self._dummy_call(code)]}
        two = {**one, "tool_calls": [self._dummy_call(code), self._dummy_call({"code": "1"})]}
        error = _tool_message("\nTraceback (most recent call last):\n  ...\nValueError: <x>\n")
        return [
            [*question, answer],
            [*question, one, _tool_message("42"), answer],
            [*question, two, _tool_message(" 42\n"), _tool_message(""), answer],
            [*question, one, error, {**one, "content": lead}, _tool_message("42"), answer],
        ]

    def _check(self, dialogue: list[dict[str, Any]]) -> None:
        """Parts and whole must agree, in text (but for thoughts) and in tokens. Raises TemplateError."""
        try:
            spans = self._spans(dialogue)
        except DataError as error:
            raise TemplateError(f"the chat template is not prefix-stable: {error}") from None
        parts = "".join(span.text for span in spans)
        rendered = self._render(dialogue, generation=False)
        whole = rendered[: rendered.rfind(self._stop_text) + len(self._stop_text)]
        # Prompts may speak of <think> themselves: thoughts are only looked for after them.
        asked = len(self._render(dialogue[: _first_turn(dialogue)], generation=False))
        want = whole[:asked] + _THOUGHT.sub("", whole[asked:])
        got = parts[:asked] + _THOUGHT.sub("", parts[asked:])
        if want != got:
            raise TemplateError(
                f"the chat template must render a dialogue as its parts were rendered, but {_difference(want, got)}; "
                "use a model whose template does not rewrite earlier turns"
            )
        token_ids = [token_id for span in spans for token_id in span.token_ids]
        if self._encode(parts) != token_ids:
            raise TemplateError(
                "the tokens of a dialogue must be the tokens of its parts, but "
                f"{_difference(self.text(self._encode(parts)), self.text(token_ids))}; use another tokenizer"
            )
        self._check_calls(dialogue, spans)

    def _check_calls(self, dialogue: list[dict[str, Any]], spans: Sequence[_Span]) -> None:
        turns = [message for message in dialogue if message["role"] == "assistant"]
        for turn, span in zip(turns, (span for span in spans if span.step >= 0), strict=True):
            want = tuple(ToolCall(**call["function"]) for call in turn.get("tool_calls", ()))
            if self.read(span.token_ids).calls != want:
                raise TemplateError(
                    f"the chat template must write tool calls as {FORM}, got {span.text!r}; "
                    "use a model with a Hermes template (Qwen2.5, Qwen3, Hermes)"
                )


def _first_turn(messages: Sequence[Message]) -> int:
    return next(index for index, message in enumerate(messages) if message["role"] == "assistant")


def _plain_message(message: Message) -> dict[str, Any]:
    plain = dict(message)
    if plain.get("content") is None:
        plain["content"] = ""
    if not isinstance(plain["content"], str):
        raise DataError(f"a message's content must be text, got {kind_of(plain['content'])}; give text only")
    if plain.get("tool_calls"):
        plain["tool_calls"] = [_plain_call(call) for call in plain["tool_calls"]]
    return plain


def _plain_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call with its arguments as an object: templates would quote a JSON string a second time."""
    function = dict(call.get("function", call))
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    if not isinstance(arguments, Mapping):
        raise DataError(
            f"a tool call's arguments must be a JSON object, got {function.get('arguments')!r}; correct the dialogue"
        )
    return {"id": call.get("id", "call00000"), "type": "function", "function": {**function, "arguments": arguments}}


def _tool_message(text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "call00000", "content": text}


def _notice(num_tokens: int, *, wordy: bool) -> str:
    return f"\n[... {num_tokens} tokens cut ...]\n" if wordy else f"[-{num_tokens}]"


def _valid_unicode(text: str) -> str:
    """Tokenizers refuse half a surrogate pair, which a tool's output may hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _difference(want: str, got: str) -> str:
    """`abcX`, `abcY` -> where they part and what stands there."""
    pairs = zip(want, got, strict=False)
    place = next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(want), len(got)))
    start = max(0, place - 30)
    return f"at character {place} the one is {want[start : place + 40]!r} and the other {got[start : place + 40]!r}"
