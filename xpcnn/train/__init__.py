"""Training: the loop, its history, evaluation, checkpoints and run folders."""

from xpcnn.train.callback import Callback, EarlyStopping, ProgressBar, ProgressLines
from xpcnn.train.checkpoint import restore_checkpoint, save_checkpoint
from xpcnn.train.evaluate import Evaluation, evaluate, predict
from xpcnn.train.history import EpochRecord, History
from xpcnn.train.loading import load_model
from xpcnn.train.run import RunDirectory
from xpcnn.train.search import Trial, random_search, ranked, split
from xpcnn.train.trainer import Trainer

__all__ = [
    "Callback", "EarlyStopping", "EpochRecord", "Evaluation", "History", "ProgressBar", "ProgressLines",
    "RunDirectory", "Trainer", "Trial", "evaluate", "load_model", "predict", "random_search", "ranked",
    "restore_checkpoint", "save_checkpoint", "split",
]  # fmt: skip
