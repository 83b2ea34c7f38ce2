"""Networks as they are written, on fused ops."""

from fastgan.fusion.accelerate import accelerate, restore
from fastgan.fusion.report import Report

__all__ = ["Report", "accelerate", "restore"]
