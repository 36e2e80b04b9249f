"""One episode: its limits, the tool, and the sandbox that the tool runs in."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sod.config.section import Count, Fraction, FromList, Positive, Section


class AgentConfig(Section):
    """The limits of one episode."""

    max_turns: Count = 16
    """Turns the student may sample, the answer's included."""
    max_prompt_tokens: Count = 2560
    """Prompt length in tokens; a longer problem is refused when the data is read."""
    max_response_tokens: Count = 20480
    """Tokens after the prompt, observations included."""
    max_malformed_calls: Annotated[int, Field(ge=0)] = 3
    """Calls that could not be read before the episode ends; 0 ends it at the first."""
    max_concurrent: Count = 1024
    """Episodes under way at once, at most."""
    thinking: bool = False
    """Ask the template for its thinking mode (Qwen3's `enable_thinking`)."""
    system: str = ""
    """System message put before every problem that has none; "" is off."""


FAULT_DETAIL = "tool.fault_share"
"""The `detail` of a call that failed on purpose, by which others know that it was not the student's doing."""


class ToolConfig(Section):
    """The code interpreter as the student sees it."""

    enabled: bool = True
    """Offer the tool at all."""
    make: str = ""
    """A tool of your own: FILE.py:FUNCTION or MODULE:FUNCTION, called with this section and the sandbox (None in a cold
    start, which only shows the tool); "" is the code interpreter."""
    name: str = "code_interpreter"
    """The function's name in the chat template."""
    timeout_s: Positive = 10.0
    """Seconds one call may run."""
    mode: Literal["repl", "off", "retool"] = "repl"
    """"repl" prints the value of a last expression as a REPL does, "off" runs the code as a file, "retool" wraps the
    last line in print(...) as the released code does, faults and all: to compare with it."""
    observation_cut: Literal["tokens", "paper"] = "tokens"
    """What is too long is cut in the middle: to max_observation_tokens, or as published to 256 characters."""
    max_observation_tokens: Annotated[int, Field(ge=16)] = 512
    """Tokens of one observation, the notice of the cut included; not used with observation_cut = "paper"."""
    infrastructure_retries: Annotated[int, Field(ge=0)] = 2
    """Tries after the first when the sandbox itself failed."""
    fault_share: Fraction = 0.0
    """Share of readable calls that are answered by a failure instead, drawn by the episode's seed: for training and
    measuring how a student lives with a tool that fails; 0 is off."""

    @model_validator(mode="after")
    def _nothing_of_no_tool(self) -> Self:
        if not self.enabled and (self.make or self.fault_share):
            raise ValueError(
                f'without a tool none is made and none fails, got enabled = false, make = "{self.make}" and '
                f"fault_share = {self.fault_share:g}; unset these two, or enable the tool"
            )
        return self


class SandboxConfig(Section):
    """Where the student's code runs."""

    urls: Annotated[tuple[str, ...], FromList] = ()
    """SandboxFusion servers (http://HOST:PORT) to run code on instead of this machine; none is off."""
    isolation: Literal["auto", "A", "B"] = "auto"
    """How code is cut off from this machine: "A" by namespaces, "B" by Landlock and seccomp, "auto" A if possible."""
    allow_unsafe: bool = False
    """Run code with your own rights where the machine allows neither A nor B. Only for code that you trust."""
    workers: Count = 2
    """Fork servers of each kind (with the preloaded packages and without)."""
    concurrent_per_worker: Count = 8
    """Calls that run at once in each; more wait, and the wait is not charged to them."""
    memory_mb: Count = 1024
    """Memory a call may add, in MiB, its subprocesses included."""
    disk_mb: Count = 64
    """Files a call may write, in MiB altogether."""
    max_output_bytes: Count = 65536
    """Bytes of stdout and of stderr that are kept, head and tail."""
    packages: Annotated[tuple[str, ...], FromList] = ("numpy", "sympy")
    """Installed distributions that code may import, with what they require; nothing else is there."""
    preload: Annotated[tuple[str, ...], FromList] = ("numpy", "sympy")
    """Packages imported once per fork server so that calls need not; missing ones are skipped."""
    python: str = ""
    """Interpreter that runs the code, one with `packages` installed; "" takes the one that runs this."""
    max_sessions: Count = 64
    """Sessions that keep a process; the longest unused one gives way."""
