"""Optimisers: how gradients change parameters; and what goes on around their steps."""

from xpcnn.optim.average import WeightAverage
from xpcnn.optim.clip import clip_grad_norm
from xpcnn.optim.optimizer import Optimizer
from xpcnn.optim.rules import SGD, AdaGrad, Adam, AdamW, RMSprop
from xpcnn.optim.schedule import Schedule
from xpcnn.optim.schedules import CosineAnnealingLR, ExponentialLR, LinearWarmup, OneCycleLR, StepLR

__all__ = [
    "SGD", "AdaGrad", "Adam", "AdamW", "CosineAnnealingLR", "ExponentialLR", "LinearWarmup", "OneCycleLR",
    "Optimizer", "RMSprop", "Schedule", "StepLR", "WeightAverage", "clip_grad_norm",
]  # fmt: skip
