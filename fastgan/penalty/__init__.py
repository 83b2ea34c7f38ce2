"""Gradient penalties: exact gradients without double backward where a critic is piecewise linear."""

from fastgan.penalty.double_backward import efficient_convolutions
from fastgan.penalty.functions import (
    dragan_penalty,
    gradient_penalty,
    max_gradient_penalty,
    r1_penalty,
    r2_penalty,
    zero_centered_penalty,
)
from fastgan.penalty.kinds import DRAGAN, R1, R2, WGANGP, MaxGradient, Penalty, ZeroCentered
from fastgan.penalty.loss import PenalizedLoss, penalized_loss
from fastgan.penalty.path_length import path_length_penalty

__all__ = [
    "DRAGAN",
    "R1",
    "R2",
    "WGANGP",
    "MaxGradient",
    "PenalizedLoss",
    "Penalty",
    "ZeroCentered",
    "dragan_penalty",
    "efficient_convolutions",
    "gradient_penalty",
    "max_gradient_penalty",
    "path_length_penalty",
    "penalized_loss",
    "r1_penalty",
    "r2_penalty",
    "zero_centered_penalty",
]
