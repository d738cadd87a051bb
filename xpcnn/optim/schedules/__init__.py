"""Schedules: the learning rate as a function of the optimisation step."""

from xpcnn.optim.schedules.base import Schedule
from xpcnn.optim.schedules.decay import CosineAnnealingLR, ExponentialLR, StepLR
from xpcnn.optim.schedules.one_cycle import OneCycleLR
from xpcnn.optim.schedules.warmup import LinearWarmup

__all__ = ["CosineAnnealingLR", "ExponentialLR", "LinearWarmup", "OneCycleLR", "Schedule", "StepLR"]
