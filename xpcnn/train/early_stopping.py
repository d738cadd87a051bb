"""Stop when the test set is no longer answered better."""

from __future__ import annotations

import math

from xpcnn.backend.numbers import real, whole
from xpcnn.train.callback import Callback
from xpcnn.train.history import EpochRecord, History
from xpcnn.train.trainer import Trainer

__all__ = ["EarlyStopping"]


class EarlyStopping(Callback):
    """Stops `fit` when the test accuracy has not been better for a number of epochs [1]_.

    Where targets have no classes, the test loss counts instead. It remembers nothing: whether to stop is a
    function of the history alone, so a resumed run stops where an unbroken one does, and one that was stopped
    does not go on. Epochs measured without a test set are passed over.

    `RunDirectory` keeps the weights of the best epoch in ``best.safetensors``.

    Parameters
    ----------
    patience : int
        Epochs without a better accuracy or loss, at least 1.
    min_delta : float
        A better one is higher, or a loss lower, by more than this; at least 0.

    Raises
    ------
    ArgumentError
        When an argument is outside its allowed values; from ``fit`` when there is no test set.

    References
    ----------
    .. [1] L. Prechelt, "Early stopping - but when?", in: Neural Networks: Tricks of the Trade, 1998.

    Examples
    --------
    >>> from xpcnn import Trainer, data, models, optim
    >>> digits = data.synthetic_digits(60)
    >>> model = models.tiny_convnet()
    >>> trainer = Trainer(model, optim.SGD(model, lr=0.0))
    >>> history = trainer.fit(digits[:50], digits[50:], 9, progress=None, callbacks=[EarlyStopping(2)])
    >>> len(history.epochs), trainer.stopped
    (3, 'no better test accuracy in 2 epochs than the 0.00% of epoch 1')
    """

    needs_test = True

    def __init__(self, patience: int, *, min_delta: float = 0.0) -> None:
        self.patience = whole("EarlyStopping: patience", patience, 1)
        self.min_delta = real("EarlyStopping: min_delta", min_delta, 0)

    def on_start(self, trainer: Trainer, steps: int) -> None:
        self._judge(trainer)

    def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
        self._judge(trainer)

    def _judge(self, trainer: Trainer) -> None:
        reason = self.reason(trainer.history)
        if reason is not None:
            trainer.stop(reason)

    def reason(self, history: History) -> str | None:
        """Return why a run of this history should stop, or None if it should not."""
        best: EpochRecord | None = None
        best_score, since = -math.inf, 0
        for record in history.epochs:
            score = record.score
            if score is None:
                continue
            since += 1
            if best is None or score > best_score + self.min_delta:
                best, best_score, since = record, score, 0
        if best is None or since < self.patience:
            return None
        epochs = "1 epoch" if since == 1 else f"{since} epochs"
        if best.test_accuracy is None:
            return f"no lower test loss in {epochs} than the {best.test_loss:.4g} of epoch {best.epoch}"
        return f"no better test accuracy in {epochs} than the {best.test_accuracy:.2%} of epoch {best.epoch}"
