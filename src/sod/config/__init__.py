"""Every knob. Defaults are the published setting; a config is checked here, once, when it is read.

    config = load(TrainConfig, "run.toml", overrides=["optimizer.lr=1e-5", "method=opd"])

TOML plus dotted overrides (TOML values; a bare word is a string). An unknown key is an error that names the nearest.
"""

from sod.config.commands import EvalConfig, PriceConfig, TracesConfig
from sod.config.episode import AgentConfig, SandboxConfig, ToolConfig
from sod.config.methods import METHODS, PRESETS, Method
from sod.config.models import LoRAConfig, ModelConfig, SamplingConfig, ServerConfig, VLLMConfig
from sod.config.objective import ObjectiveConfig, WeightConfig
from sod.config.problems import DataConfig, RewardConfig, ShapingConfig
from sod.config.reading import FREE, as_overrides, dump, load, overridden, parse
from sod.config.rubrics import RubricConfig
from sod.config.section import Section
from sod.config.teaching import HintsConfig, TeachingConfig
from sod.config.tracking import TrackingConfig
from sod.config.training import GuardConfig, OptimizerConfig, SFTConfig, TrainConfig, UpdateConfig
from sod.config.unread import unread

__all__ = [
    "FREE",
    "METHODS",
    "PRESETS",
    "AgentConfig",
    "DataConfig",
    "EvalConfig",
    "GuardConfig",
    "HintsConfig",
    "LoRAConfig",
    "Method",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PriceConfig",
    "RewardConfig",
    "RubricConfig",
    "SFTConfig",
    "SamplingConfig",
    "SandboxConfig",
    "Section",
    "ServerConfig",
    "ShapingConfig",
    "TeachingConfig",
    "ToolConfig",
    "TracesConfig",
    "TrackingConfig",
    "TrainConfig",
    "UpdateConfig",
    "VLLMConfig",
    "WeightConfig",
    "as_overrides",
    "dump",
    "load",
    "overridden",
    "parse",
    "unread",
]
