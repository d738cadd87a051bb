"""The trainer: one training step, its checks for numbers that are not finite, and what `fit` is given."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xpcnn import ops
from xpcnn.arguments import flag, positive, whole
from xpcnn.backend import Array, Key, backend_of, is_floating
from xpcnn.data import Loader
from xpcnn.errors import ArgumentError
from xpcnn.nn import Gradients, Layer, value_and_grad
from xpcnn.nn.preprocess import backend_like, like_of, to_images, to_targets
from xpcnn.ops.loss import as_loss
from xpcnn.optim import Optimizer, Schedule, WeightAverage, clip_grad_norm
from xpcnn.train.amp import low_precision
from xpcnn.train.callback import Callback, Callbacks
from xpcnn.train.evaluate import Evaluation, evaluate
from xpcnn.train.finite import divergence, find_problem, finite_rows, finite_step, kept_if, select
from xpcnn.train.history import History
from xpcnn.train.inputs import as_dataset, note_input_shape, require_same_data
from xpcnn.train.loop import UNREAD, train_epochs

__all__ = ["Trainer"]


class Trainer:
    """Trains a model, and keeps the score.

    Parameters
    ----------
    model : Layer
        Ending in logits, for the default loss. Batches are moved to where its parameters are.
    optimizer : Optimizer
        Of the same model.
    loss : op, or (forward, backward)
        ``loss(y, target) -> (0-d loss, ctx)`` with ``loss.backward(ctx) -> dy``, such as
        `ops.mean_squared_error`, or these two as a pair of functions.
    seed : int
        What the order of the samples, their augmentation and all random masks are functions of.
    schedule : Schedule, optional
        Of the same optimiser; moved on once after each step.
    clip_norm : float, optional
        The gradients' common norm is bounded by this before each update; see `optim.clip_grad_norm`.
    average : WeightAverage, optional
        Of the same model; updated after each step. Its model is the one that is evaluated then.
    dtype : "float16" or "bfloat16", optional
        What forward and backward compute in; see `xpcnn.train.amp`. Parameters stay float32. In float16 the
        loss is scaled, and a step in which something overflows is taken back.

    Attributes
    ----------
    steps : int
        Optimisation steps done.
    epoch, epoch_samples, epoch_steps : int
        Whole epochs done, and the samples and the optimisation steps done of the next one.
    data, batch_size, resumed : str or None, int or None, bool
        What `fit` was last called with, and whether a checkpoint was restored since.
    consistent : bool
        False while parameters may be half updated: nothing should be saved then.
    stopped : str or None
        Why `stop` ended the last call of `fit`; None if it did not.
    history : History
    dtype, loss_scale : str or None, LossScale or None
        The half precision, if any, and what float16 multiplies its losses by.

    Raises
    ------
    ArgumentError
        When an argument is not of its kind, `loss` is neither an op nor a pair, `schedule` another
        optimiser's, `average` another model's, `clip_norm` not above 0, or `dtype` no half precision.
    DtypeError, BackendError
        With a `dtype`, when the model is not float32, or its backend has no such numbers.

    Examples
    --------
    >>> from xpcnn import Trainer, data, models, optim
    >>> digits = data.synthetic_digits(200)
    >>> model = models.tiny_convnet()
    >>> trainer = Trainer(model, optim.SGD(model, lr=0.1))
    >>> history = trainer.fit(digits[:150], digits[150:], epochs=1, batch_size=50, progress=None)
    >>> len(history.losses), trainer.evaluate(digits[150:]).samples
    (3, 50)
    """

    def __init__(
        self,
        model: Layer,
        optimizer: Optimizer,
        *,
        loss: Any = ops.softmax_cross_entropy,
        seed: int = 0,
        schedule: Schedule | None = None,
        clip_norm: float | None = None,
        average: WeightAverage | None = None,
        dtype: Any = None,
    ) -> None:
        self._like = like_of("Trainer", model)
        _require_parts(model, optimizer, schedule, average)
        self.model = model
        self.optimizer = optimizer
        self._low = low_precision(model, dtype)
        self.dtype = None if self._low is None else self._low.dtype
        self.loss_scale = None if self._low is None else self._low.loss_scale
        self.loss = as_loss("Trainer", loss)
        self.seed = whole("Trainer: seed", seed, 0)
        self.schedule = schedule
        self.clip_norm = None if clip_norm is None else positive("Trainer: clip_norm", clip_norm)
        self.average = average
        self.steps = self.epoch = self.epoch_samples = self.epoch_steps = 0
        self.epoch_seconds = 0.0
        self.data: str | None = None
        self.batch_size: int | None = None
        self.resumed, self.consistent = False, True
        self.stopped: str | None = None
        self.history = History()
        self._key = Key(self.seed).fold("step")
        self._buffers = list(model.buffers().values())  # a walk that would slow each step
        # Of the last steps on a device, their numbers and which samples were finite.
        self._unread: deque[tuple[int, Array]] = deque(maxlen=UNREAD)

    @property
    def eval_model(self) -> Layer:
        """The model that is evaluated, and worth saving: the averaged one where there is an average."""
        return self.model if self.average is None else self.average.model

    def step(self, x: Any, t: Any) -> Array:
        """Do one training step and return its loss, a 0-d array on the device.

        Parameters
        ----------
        x : array (N, ...)
            uint8 images, or floating ones that are prepared already; moved if they are elsewhere. Bytes
            become ``x / 255`` where the model has no `nn.Preprocess`.
        t : array (N, ...)
            Labels, integers of shape (N,) or (N, 1), reach the loss as (N,) int64. Integer rows (N, K) and
            all floats reach it in the model's dtype, other integers as they are.

        Raises
        ------
        DivergenceError
            When the loss, a gradient or an image is not finite; nothing is updated then. Where looking at a
            value would wait for a device, the device takes the step back and the loss is NaN.
        """
        with backend_like(self.model, self._like).execution_context():
            x, t = to_images(self.model, x, self._like), to_targets(self.model, t, self._like)
            loss, grads, finite = self._gradients(x, t)
            self.consistent = False
            if finite is None:
                self._update(grads)
            else:
                with kept_if(finite, grads, self.optimizer, self.average):
                    self._update(grads)
                if self.loss_scale is not None:
                    self.loss_scale.update(finite)
            self.steps += 1
            self.consistent = True
        return loss

    def _gradients(self, x: Array, t: Array) -> tuple[Array, Gradients, Array | None]:
        """Return a batch's loss, its gradients, and where only the device knows it, whether to keep the step.

        Batch statistics of a step that fails or is not finite are put back.
        """
        backend = backend_of(x)
        before = [(buffer, buffer.data) for buffer in self._buffers]
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # numbers that are not finite are found below
                compute = value_and_grad(self._low or self.model, self.loss)
                loss, grads = compute(x, t, key=self._key.fold(self.steps))
                if backend.is_host:
                    self._require_finite(x, t, loss, grads)
                    if self.loss_scale is None:
                        return loss, grads, None
        except BaseException:  # such as a label that is no class, or Ctrl-C
            for buffer, old in before:
                buffer.data = old
            raise
        rows = finite_rows(x, t)
        if not backend.is_host:
            self._unread.append((self.steps, rows))
        loss, finite = finite_step(rows, loss, grads, self._low)
        for buffer, old in before:
            buffer.data = select(finite, buffer.data, old)
        return loss, grads, finite

    def _require_finite(self, x: Array, t: Array, loss: Array, grads: Gradients) -> None:
        """Raise `DivergenceError` where a step on the host is not finite."""
        arrays = [array for array in (x, t) if is_floating(array.dtype)]
        arrays += [loss, *(gradient for _, gradient in grads.items())]
        if not backend_of(x).has_finite_sums(arrays):
            # With a loss scale, what overflows float16 is taken back.
            found = (loss, grads) if self.loss_scale is None else ()
            problem = find_problem(self.model, finite_rows(x, t), *found)
            if problem is not None:
                raise divergence(self, problem, self.steps)

    def _update(self, grads: Gradients) -> None:
        if self.clip_norm is not None:
            clip_grad_norm(grads, self.clip_norm)
        self.optimizer.step(grads)
        if self.schedule is not None:
            self.schedule.step()
        if self.average is not None:
            self.average.update()

    def fit(
        self,
        train: Any,
        test: Any = None,
        epochs: int = 1,
        batch_size: int = 100,
        evaluate_samples: int | None = None,
        drop_last: bool = False,
        evaluate_train: bool = True,
        *,
        augment: Callable[..., Any] | None = None,
        progress: Callback | str | None = "auto",
        callbacks: Sequence[Callback] = (),
    ) -> History:
        """Train for some epochs and return the history of all training so far.

        Each sample is seen once an epoch, in an order that is a function of the seed and the epoch.
        Losses, and accuracies where the targets have classes, are measured after each epoch, of the model
        `eval_model`. It notes the images' (C, H, W) and their preparation on the models.

        Parameters
        ----------
        train, test : Dataset or (images, targets)
            `test` may be left out. Targets of every kind reach the loss as `step` hands them on.
        epochs : int
            How many to train. A trainer that was interrupted, or restored from a checkpoint, in the middle
            of an epoch finishes that one as the first of them.
        batch_size : int
            The last batch of an epoch may be smaller. One of a single sample is joined to the batch before
            where the model's batch statistics cannot be taken of it.
        evaluate_samples : int, optional
            Measure accuracies and losses on the first n of each set, instead of on all.
        drop_last : bool
            Leave out a last batch that is smaller.
        evaluate_train : bool
            Measure on the training set too.
        augment : callable, optional
            Changes the images of each training batch on the host, such as those of `xpcnn.data.augment`; see
            `Loader`. Accuracies are measured on the images as they are.
        progress : "auto", Callback or None
            ``"auto"`` draws a bar on a terminal and prints a line an epoch elsewhere (on stderr).
        callbacks : sequence of Callback

        Raises
        ------
        ArgumentError
            For arguments outside their allowed values, without a test set that a callback needs, and when an
            epoch that was broken off, or a restored checkpoint, is to go on with other data.
        DivergenceError
            When a loss, a gradient or a sample is not finite; in float16, when no loss of an epoch is, or
            losses or gradients overflow whatever the loss scale. It names the step, the learning rate, and
            which samples hold NaN or infinity. The weights stay finite.
        KeyboardInterrupt
            On Ctrl-C, SIGTERM, SIGHUP or SIGUSR1, after the step at hand is whole and the callbacks have run;
            a second signal does not wait. ``history.interrupted`` is True then.
        """
        train = as_dataset(train)
        test = None if test is None else as_dataset(test)
        epochs = whole("fit: epochs", epochs, 0)
        evaluate_train = flag("fit: evaluate_train", evaluate_train)
        if evaluate_samples is not None:
            evaluate_samples = whole("fit: evaluate_samples", evaluate_samples, 1)
        loader = Loader(train, batch_size, seed=self.seed, drop_last=drop_last, augment=augment)
        measured = [train if evaluate_train else None, test]
        measured = [None if data is None else data[:evaluate_samples] for data in measured]
        watching = Callbacks(progress, callbacks, with_test=test is not None)
        require_same_data(self, train, loader.batch_size)
        note_input_shape(train, self.model, self.eval_model)
        self._buffers = list(self.model.buffers().values())
        self.history.interrupted, self.stopped = False, None
        train_epochs(self, loader, measured, epochs, watching)
        return self.history

    def stop(self, reason: str) -> None:
        """Let `fit` return after the epoch at hand and its evaluation; to be called by a callback.

        Called from `Callback.on_start`, no epoch begins. The progress display tells the `reason`, which
        `stopped` keeps.
        """
        self.stopped = reason

    def evaluate(self, data: Any, *, batch_size: int | None = None) -> Evaluation:
        """Return accuracy and loss of the model `eval_model` over a dataset; see `xpcnn.train.evaluate`."""
        return evaluate(self.eval_model, data, batch_size=batch_size, loss=self.loss)


def _require_parts(model: Layer, optimizer: Any, schedule: Any, average: Any) -> None:
    """Raise `ArgumentError` where one is of another kind, or was made for another model or optimiser."""
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(f"Trainer: optimizer must be an optim.Optimizer, got {type(optimizer).__name__}")
    if schedule is not None and getattr(schedule, "optimizer", None) is not optimizer:
        what = "must be an optim.Schedule of the optimizer given"
        raise ArgumentError(f"Trainer: schedule {what}, got {schedule!r}")
    if average is not None and getattr(average, "source", None) is not model:
        what = "must be an optim.WeightAverage of the model given"
        raise ArgumentError(f"Trainer: average {what}, got {average!r}")
