"""Every error xpcnn raises on purpose.

All derive from `XpcnnError` and from the built-in exception that fits, so both
``except xpcnn.errors.XpcnnError`` and ``except ValueError`` read naturally.
Containers add the path of the failing layer as a note (`BaseException.add_note`).
"""

__all__ = [
    "AlgorithmError",
    "ArgumentError",
    "BackendError",
    "CheckpointError",
    "DatasetError",
    "DivergenceError",
    "DtypeError",
    "NonFiniteWarning",
    "PluginError",
    "ShapeError",
    "StateDictError",
    "UnknownLayerError",
    "UnpreparedImagesWarning",
    "XpcnnError",
]


class XpcnnError(Exception):
    """Base of every error raised on purpose by xpcnn."""


class ShapeError(XpcnnError, ValueError):
    """Shapes that do not fit together, or leave nothing to compute."""


class DtypeError(XpcnnError, TypeError):
    """A dtype that an operation cannot take, or two that differ."""


class ArgumentError(XpcnnError, ValueError):
    """An argument outside its allowed values."""


class UnknownLayerError(ArgumentError):
    """A description that names a layer which no class is registered for."""


class BackendError(XpcnnError, ValueError):
    """An unknown or unusable backend, or arrays of different backends or devices."""


class AlgorithmError(XpcnnError, ValueError):
    """An unknown convolution algorithm, or one that cannot do what was asked."""


class DatasetError(XpcnnError, OSError):
    """A dataset that cannot be found, fetched, read or trusted."""


class CheckpointError(XpcnnError, OSError):
    """A weight or checkpoint file that cannot be read or written."""


class StateDictError(CheckpointError, ValueError):
    """Saved entries that do not fit the model they are loaded into."""


class DivergenceError(XpcnnError, ArithmeticError):
    """Training produced a loss that is not a finite number."""


class PluginError(XpcnnError, ImportError):
    """A file or a distribution with models, layers, datasets or algorithms that cannot be imported."""


class NonFiniteWarning(UserWarning):
    """Weights that were loaded hold NaN or infinite numbers."""


class UnpreparedImagesWarning(UserWarning):
    """Floating images have values of 0 to 255, which a model takes as they are."""
