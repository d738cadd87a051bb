"""Published networks, one file each, built from the containers alone."""

from xpcnn.models.catalog import build, model_names
from xpcnn.models.deep_convnet import deep_convnet
from xpcnn.models.simple_convnet import simple_convnet
from xpcnn.models.tiny_convnet import tiny_convnet

__all__ = ["build", "deep_convnet", "model_names", "simple_convnet", "tiny_convnet"]
