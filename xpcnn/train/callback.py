"""What watches a training run: a base to derive from, the progress display, and early stopping."""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from xpcnn.arguments import in_words, whole
from xpcnn.errors import ArgumentError
from xpcnn.train.history import EpochRecord

if TYPE_CHECKING:
    from xpcnn.train.trainer import Trainer

__all__ = ["Callback", "Callbacks", "EarlyStopping", "ProgressBar", "ProgressLines", "describe"]

_log = logging.getLogger(__name__)


class Callback:
    """Called by `Trainer.fit`; each method does nothing unless overridden."""

    needs_test = False
    """Whether `fit` has to be given a test set."""

    saves = False
    """Whether it saves the run: such callbacks are called before the others."""

    def on_start(self, trainer: Trainer, steps: int) -> None:
        """Before the first step; `steps` is how many this call of fit will take."""

    def on_losses(self, trainer: Trainer, losses: list[float]) -> None:
        """After the losses of some steps were read from the device."""

    def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
        """After an epoch and its evaluation."""

    def on_stop(self, trainer: Trainer) -> None:
        """After the last epoch, an interrupt or an error.

        ``trainer.stopped`` and ``trainer.history.interrupted`` tell which.
        """


def describe(record: EpochRecord, lr: float | None = None) -> str:
    """Return an epoch's figures, and the learning rate that it ended with if given, as one line."""
    train = "" if record.train_accuracy is None else f"  train {record.train_accuracy:7.2%}"
    test = "" if record.test_accuracy is None else f"  test {record.test_accuracy:7.2%}"
    if record.test_accuracy is None and record.test_loss is not None:
        test = f"  test loss {record.test_loss:.4f}"
    rate = "" if lr is None else f"  lr {lr:.2e}"
    return (
        f"epoch {record.epoch:3d}  loss {record.loss:.4f}{train}{test}{rate}  "
        f"{record.seconds:.1f} s  {record.images_per_second:,.0f} images/s"
    )


class ProgressLines(Callback):
    """One plain line an epoch, for logs; it tells the learning rate where a schedule changes it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        """Print a line, where there is anything to print on."""
        if (stream := self._stream or sys.stderr) is not None:  # print would take None for stdout
            print(line, file=stream, flush=True)

    def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
        self.write(describe(record, None if trainer.schedule is None else trainer.optimizer.lr))

    def on_stop(self, trainer: Trainer) -> None:
        if trainer.stopped is not None:
            self.write(f"stopped: {trainer.stopped}")


class ProgressBar(ProgressLines):
    """A bar over all steps, with a line above it for each finished epoch."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._bar: Any = None

    def write(self, line: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.write(line, file=self._stream or sys.stderr)

    def on_start(self, trainer: Trainer, steps: int) -> None:
        if (stream := self._stream or sys.stderr) is not None:
            from tqdm import tqdm

            self._bar = tqdm(total=steps, unit="step", file=stream, dynamic_ncols=True)

    def on_losses(self, trainer: Trainer, losses: list[float]) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {losses[-1]:.4f}", refresh=False)
            self._bar.update(len(losses))

    def on_stop(self, trainer: Trainer) -> None:
        if self._bar is not None:
            super().on_stop(trainer)
            self._bar.close()


class Callbacks:
    """The callbacks of one call of ``fit``: those that save the run first, the display last.

    The display is dropped with a note when it fails, as where the disk that its log goes to is full.

    Raises
    ------
    ArgumentError
        When `progress` is none of the known, `callbacks` no list of them, or a callback needs a test set
        and there is none.
    """

    def __init__(self, progress: Any, callbacks: Any, with_test: bool) -> None:
        if isinstance(progress, str) and progress == "auto":
            stream, progress = sys.stderr, None
            if stream is not None and not getattr(stream, "closed", False):
                is_terminal = hasattr(stream, "isatty") and stream.isatty()
                progress = ProgressBar(stream) if is_terminal else ProgressLines(stream)
        if progress is not None and not isinstance(progress, Callback):
            raise ArgumentError(f"fit: progress must be 'auto', a Callback or None, got {in_words(progress)}")
        known = isinstance(callbacks, (list, tuple)) and all(isinstance(one, Callback) for one in callbacks)
        if not known:
            raise ArgumentError(f"fit: callbacks must be a list of Callbacks, got {in_words(callbacks)}")
        for callback in (*callbacks, progress):
            if callback is not None and callback.needs_test and not with_test:
                raise ArgumentError(f"fit: {type(callback).__name__} needs a test set; give one")
        self._callbacks = sorted(callbacks, key=lambda callback: not callback.saves)
        self._display = progress

    def call(self, method: str, *arguments: Any) -> None:
        """Call a method of each one, whatever becomes of the others'; then raise the first error."""
        errors: list[BaseException] = []
        for call in (*(getattr(one, method) for one in self._callbacks), partial(self._show, method)):
            try:
                call(*arguments)
            except BaseException as error:
                errors.append(error)
        if errors:
            for other in errors[1:]:
                errors[0].add_note(f"another {method}: {other}")
            raise errors[0]

    def _show(self, method: str, *arguments: Any) -> None:
        if self._display is None:
            return
        try:
            getattr(self._display, method)(*arguments)
        except (OSError, ValueError) as error:  # ValueError is what a closed file raises
            if isinstance(self._display, ProgressBar) and self._display._bar is not None:
                self._display._bar.disable = True  # draws nothing when it is deleted either
            self._display = None
            _log.warning("the progress display failed and shows nothing more: %s", error)


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

    Raises
    ------
    ArgumentError
        When `patience` is outside its allowed values; from ``fit`` when there is no test set.

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

    def __init__(self, patience: int) -> None:
        self.patience = whole("EarlyStopping: patience", patience, 1)

    def on_start(self, trainer: Trainer, steps: int) -> None:
        records = [record for record in trainer.history.epochs if record.score is not None]
        scores = [score for record in records if (score := record.score) is not None]
        if not scores:
            return
        best = scores.index(max(scores))  # the first of equals
        accuracy, since = records[best].test_accuracy, len(scores) - 1 - best
        if since >= self.patience:
            epochs = "1 epoch" if since == 1 else f"{since} epochs"
            what, value = "lower test loss", f"{-scores[best]:.4g}"
            if accuracy is not None:
                what, value = "better test accuracy", f"{accuracy:.2%}"
            trainer.stop(f"no {what} in {epochs} than the {value} of epoch {records[best].epoch}")

    def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
        self.on_start(trainer, 0)
