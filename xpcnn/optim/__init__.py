"""Optimisers: how gradients change parameters; and what goes on around their steps."""

from xpcnn.optim.adagrad import AdaGrad
from xpcnn.optim.adam import Adam, AdamW
from xpcnn.optim.average import WeightAverage
from xpcnn.optim.clip import clip_grad_norm, clip_grad_value
from xpcnn.optim.optimizer import Optimizer
from xpcnn.optim.rmsprop import RMSprop
from xpcnn.optim.schedule import Schedule
from xpcnn.optim.schedules import CosineAnnealingLR, ExponentialLR, LinearWarmup, OneCycleLR, StepLR
from xpcnn.optim.sgd import SGD

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LinearWarmup",
    "OneCycleLR",
    "Optimizer",
    "RMSprop",
    "Schedule",
    "StepLR",
    "WeightAverage",
    "clip_grad_norm",
    "clip_grad_value",
]
