"""Every knob. Defaults are the published setting; a config is checked here, once, when it is read.

    config = load(TrainConfig, "run.toml", overrides=["optimizer.lr=1e-5", "method=opd"])

TOML plus dotted overrides (TOML values; a bare word is a string). An unknown key is an error that names the nearest.
"""

from sod.config.commands import EvalConfig, PriceConfig, TracesConfig
from sod.config.episode import AgentConfig, SandboxConfig, ToolConfig
from sod.config.methods import METHODS, Method
from sod.config.models import LoRAConfig, ModelConfig, SamplingConfig, ServerConfig, VLLMConfig
from sod.config.problems import DataConfig, RewardConfig, ShapingConfig
from sod.config.reading import FREE, dump, load, overridden, parse
from sod.config.section import Section
from sod.config.training import GuardConfig, ObjectiveConfig, OptimizerConfig, SFTConfig, TrainConfig, UpdateConfig

__all__ = [
    "FREE",
    "METHODS",
    "AgentConfig",
    "DataConfig",
    "EvalConfig",
    "GuardConfig",
    "LoRAConfig",
    "Method",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PriceConfig",
    "RewardConfig",
    "SFTConfig",
    "SamplingConfig",
    "SandboxConfig",
    "Section",
    "ServerConfig",
    "ShapingConfig",
    "ToolConfig",
    "TracesConfig",
    "TrainConfig",
    "UpdateConfig",
    "VLLMConfig",
    "dump",
    "load",
    "overridden",
    "parse",
]
