"""Whether a model is worth saving: no update may have made its weights NaN or infinite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xpcnn.backend import Array, backend_of, is_floating
from xpcnn.errors import DivergenceError

if TYPE_CHECKING:
    from xpcnn.train.trainer import Trainer

__all__ = ["require_finite"]

_NAMED = 3


def require_finite(trainer: Trainer) -> None:
    """Raise `DivergenceError` if what a trainer would save holds NaN or infinity; frozen parameters may.

    That is the model's parameters and buffers, the optimiser's state and the averaged weights. The device is
    waited for once.
    """
    arrays = {name: array for name, array in _saved(trainer) if is_floating(array.dtype)}
    if not arrays:
        return
    flags = [backend_of(array).xp.all(backend_of(array).xp.isfinite(array)) for array in arrays.values()]
    backend = backend_of(flags[0])
    finite = backend.to_numpy(backend.xp.stack(flags)).tolist()
    bad = [name for name, good in zip(arrays, finite, strict=True) if not good]
    if bad:
        more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise DivergenceError(
            f"{', '.join(bad[:_NAMED])}{more} became NaN or infinite by step {trainer.steps} "
            f"(epoch {trainer.epoch + 1}) with learning rate {trainer.optimizer.lr:g}; "
            "lower the learning rate"
        )


def _saved(trainer: Trainer) -> Iterator[tuple[str, Array]]:
    for path, parameter in trainer.model.parameters().items():
        if parameter.trainable:
            yield path, parameter.data
    for path, buffer in trainer.model.buffers().items():
        yield path, buffer.data
    for path, entry in trainer.optimizer._entries.items():
        yield from ((f"the optimiser's {slot} of {path}", array) for slot, array in entry.state.items())
    if trainer.average is not None:
        yield from ((f"the average of {path}", array) for path, array in trainer.average._averages.items())
