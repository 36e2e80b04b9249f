"""Where weights come from, what holds them, and how they draw."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sod.config.section import Count, FromList, NonNegative, Positive, Section


class VLLMConfig(Section):
    """vLLM in processes of its own on this machine."""

    memory_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Share of a GPU's memory for vLLM's weights and keys and values; not used on a CPU."""
    max_length: Annotated[int, Field(ge=0)] = 0
    """Positions, prompt and response together, that memory must hold; 0 takes all the model knows."""
    compile: bool = True
    """Compile the model at the start (a minute or so); off starts sooner and runs slower."""
    sleep: bool = False
    """Give the GPU's memory back while weights are trained. For the student alone: a teacher is never put to sleep."""
    tensor_parallel: Count = 1
    """GPUs that share one copy of the weights."""


class ServerConfig(Section):
    """An OpenAI-compatible server; its key is read from the environment variable SOD_API_KEY."""

    url: str = ""
    """Base URL, http://HOST:PORT; "" is none."""
    model: str = ""
    """The model's name at the server; "" takes the only one it serves."""
    processed_logprobs: bool = False
    """The server runs with `--logprobs-mode processed_logprobs`: its log-probs are of the tempered distribution."""
    max_concurrent: Count = 64
    """Requests under way at once."""
    timeout_s: Positive = 600.0
    """Seconds one request may take."""


class ModelConfig(Section):
    """Where weights come from and how the engine holds them."""

    path: Annotated[str, Field(min_length=1)]
    """Local directory or hub id of a model in transformers format (safetensors). Behind a server: of its tokenizer."""
    engine: Literal["hf", "vllm", "server"] = "hf"
    """What samples and scores: transformers in this process, vLLM beside it, or a server (`server.url`)."""
    vllm: VLLMConfig = VLLMConfig()
    """vLLM in processes of its own on this machine."""
    server: ServerConfig = ServerConfig()
    """An OpenAI-compatible server."""
    device: str = "auto"
    """"auto" takes a GPU when there is one; or "cpu", "cuda", "cuda:1"."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the weights; "auto" is bfloat16 on a GPU, float32 on a CPU. What is trained in bfloat16 has float32
    master weights in its optimizer."""
    max_rows: Count = 256
    """Trajectories that decode together, at most."""
    tokens_per_forward: Count = 16384
    """Tokens in one forward of scoring or prefill."""
    kv_cache_gib: NonNegative = 0.0
    """Memory for keys and values of turns that decode, in GiB: what does not fit waits. 0 takes 8 GiB on a CPU and 30 %
    of a GPU; with vLLM 1 GiB on a CPU, and what vllm.memory_share leaves of a GPU."""

    @model_validator(mode="after")
    def _device_of_vllm(self) -> Self:
        if self.engine == "vllm" and self.device not in ("auto", "cpu", "cuda", "cuda:0"):
            raise ValueError(
                "vLLM takes the first of the GPUs that CUDA_VISIBLE_DEVICES names, got "
                f'device = "{self.device}"; leave device out'
            )
        return self

    @model_validator(mode="after")
    def _server_with_its_engine(self) -> Self:
        if (self.engine == "server") != bool(self.server.url):
            raise ValueError(
                'a server needs both engine = "server" and server.url, got '
                f'engine = "{self.engine}" and server.url = "{self.server.url}"; give both or neither'
            )
        return self


class LoRAConfig(Section):
    """Train low-rank additions to a model's linear layers instead of its weights."""

    rank: Count = 32
    """Rank of an addition."""
    alpha: Positive = 64.0
    """An addition is scaled by alpha / rank."""
    targets: Annotated[tuple[str, ...], FromList] = ("all-linear",)
    """Names of the layers that get one ("q_proj", ...); "all-linear" is every linear layer but the head."""


class SamplingConfig(Section):
    """How the next token is drawn."""

    temperature: NonNegative = 1.0
    """Logits are divided by it; 0 takes the most likely token. In training it must be above 0."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Keep the smallest set of tokens whose probability reaches it; 1 is off."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Keep the k most likely tokens; 0 is off."""
