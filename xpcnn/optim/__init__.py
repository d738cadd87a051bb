"""Optimisers: how gradients change parameters."""

from xpcnn.optim.adagrad import AdaGrad
from xpcnn.optim.adam import Adam, AdamW
from xpcnn.optim.optimizer import Optimizer
from xpcnn.optim.rmsprop import RMSprop
from xpcnn.optim.sgd import SGD

__all__ = ["SGD", "AdaGrad", "Adam", "AdamW", "Optimizer", "RMSprop"]
