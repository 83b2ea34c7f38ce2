"""Tiny generators and critics in the styles of codebases: what fastgan.accelerate leaves unchanged."""

from codebases import dcgan, images, other_dimensions, residual, style
from codebases.zoo import CODEBASES

__all__ = ["CODEBASES", "dcgan", "images", "other_dimensions", "residual", "style"]
