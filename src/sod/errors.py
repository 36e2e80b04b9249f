"""The error tree: everything that `sod` raises on purpose.

SodError
|- ConfigError          a setting cannot be read, or settings exclude each other   (also ValueError)
|- DataError            a file or a row is not what its format promises            (also ValueError)
|- TemplateError        a chat template breaks the token record                    (also ValueError)
|- ModelError           weights, vocabulary or tokenizer do not fit                (also ValueError)
|- SignalError          the teacher's signal did not arrive                        (also RuntimeError)
|- CollapseError        the run is collapsing by the rule in the config            (also RuntimeError)
`- InfrastructureError  the world failed: sandbox, engine, disk, network           (also RuntimeError)
   |- SandboxError
   |- EngineError
   `- StorageError
"""

from __future__ import annotations


class SodError(Exception):
    """Root of everything `sod` raises on purpose. The message says what must hold, what was got, what to do."""


class ConfigError(SodError, ValueError):
    """A setting cannot be read, is unknown, or excludes another."""


class DataError(SodError, ValueError):
    """A data file or one of its rows is not what its format promises."""


class TemplateError(SodError, ValueError):
    """A chat template for which the token record cannot hold."""


class ModelError(SodError, ValueError):
    """Weights, vocabulary or tokenizer that do not fit together."""


class SignalError(SodError, RuntimeError):
    """The teacher's signal is missing, constant or not finite: training would silently be something else."""


class CollapseError(SodError, RuntimeError):
    """The run is collapsing by the rule of `guards` in the config."""


class InfrastructureError(SodError, RuntimeError):
    """The world failed. Never the student's fault, never shown to it, never a wrong answer."""


class SandboxError(InfrastructureError):
    """The sandbox could not run the code at all."""


class EngineError(InfrastructureError):
    """The engine that samples or scores failed."""


class StorageError(InfrastructureError):
    """A result could not be written."""
