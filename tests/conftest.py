"""What every test may rely on: where the real data is, how many threads, no hub, and skips that say why."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from stage import Stage

# Before anything imports torch or tokenizers. Two threads make the same sums on every machine; fork must not warn.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A shell without job control starts what is in the background (`make test &`) deaf to Ctrl-C, and its children with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("sod", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("sod")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The directory of real data sets, SOD_DATA_DIR.

    Without it the test is skipped; with CI=true it fails, unless SOD_DATA_OPTIONAL=1 says that there can be none.
    """
    path = Path(os.environ.get("SOD_DATA_DIR", ""))
    if "SOD_DATA_DIR" in os.environ and path.is_dir():
        return path
    reason = f"SOD_DATA_DIR must name the directory of real data sets, got {os.environ.get('SOD_DATA_DIR')!r}"
    if os.environ.get("CI") == "true" and os.environ.get("SOD_DATA_OPTIONAL") != "1":
        pytest.fail(reason)
    pytest.skip(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes `data_dir` as data; skip what this machine has no hardware or engine for."""
    for item in items:
        if "data_dir" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.data)
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
        if item.get_closest_marker("vllm") and importlib.util.find_spec("vllm") is None:
            item.add_marker(pytest.mark.skip(reason="needs vLLM: pip install vllm"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread, so that sums come in one order: `pytestmark = pytest.mark.usefixtures("one_thread")`."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The demo's tokenizer and chat template, made once (about 2 s)."""
    from sod.demo.pretrained import make_tokenizer

    return make_tokenizer(num_traces=200)


@pytest.fixture
def stage(tokenizer: Any) -> Callable[..., Stage]:
    """`stage(turns, results)`: a scripted student with a scripted sandbox, ready to play."""
    from stage import Stage

    return partial(Stage, tokenizer)


@pytest.fixture(scope="session")
def tiny_module() -> Callable[[int], Any]:
    """`tiny_module(seed)`: a random Qwen3 of the demo student's shape whose next-token choices are far from uniform."""
    import torch

    from sod.demo.pretrained import make_model

    def make(seed: int = 0) -> Any:
        module = make_model("student", seed=seed)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(4.0)
        return module

    return make


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any, tiny_module: Callable[[int], Any]) -> Path:
    """A tiny random model with its tokenizer, as `save_pretrained` writes them. Copy it to change it."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_module(0).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
