"""Step-wise on-policy distillation of small tool-using language models."""

__version__ = "0.1.0"
