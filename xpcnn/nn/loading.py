"""Saved entries into a model: where they are in a checkpoint, what they are called, and what does not fit."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any, NamedTuple, cast

from xpcnn.backend import Array, home_of, to_numpy
from xpcnn.errors import StateDictError
from xpcnn.io import load_weights, save_arrays
from xpcnn.nn.config import Configurable
from xpcnn.nn.parameter import State
from xpcnn.nn.spec import describe_spec, spec_of
from xpcnn.ops.op import in_words

__all__ = ["LoadReport", "Saved"]

_log = logging.getLogger(__name__)

# Of several nested mappings that fit equally well, the one that stands first here is taken.
_NESTS = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights", "module")
# What DataParallel, torch.compile, Lightning and others put before every path, also one after the other.
_PREFIXES = frozenset({"module", "_orig_mod", "model", "net", "network"})
_OPTIONAL = "num_batches_tracked"
_MOST_LINES = 7  # of entries, in an error
_DEEPEST = 4
_LONGEST = 120


class _LeftOut(NamedTuple):
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]


class LoadReport(_LeftOut):
    """What `load_state_dict` left out; three empty lists when all fitted.

    `notes` says what was done to the saved entries to make them fit, such as a prefix taken off.
    """

    notes: tuple[str, ...] = ()


class Saved(Configurable):
    """What has a state to save and to load: the base of `Layer`."""

    def state_dict(self) -> dict[str, Array]:
        """Return C-contiguous copies of all parameters and buffers under PyTorch's names."""
        return {path: home_of(state.data).copy(state.data) for path, state in self._states().items()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> LoadReport:
        """Copy saved arrays of any library into this layer, on its own device and in its own dtypes.

        Parameters
        ----------
        state : mapping of path to array
            Also a checkpoint that holds such a mapping, under ``"state_dict"``, ``"model"`` or the like; and
            paths that all begin with ``module.``, ``_orig_mod.`` or ``model.``, which is taken off. What was
            done is logged, and is in the report's `notes`.
        strict : bool
            False loads what fits and reports the rest, as for transfer learning.

        Returns
        -------
        LoadReport
            What was left out.

        Raises
        ------
        StateDictError
            When `strict` and an entry is missing, unknown or of the wrong shape, or when no entry fits at
            all: in at most ten lines. Nothing is loaded then.
        """
        return _load_state(self, state, strict)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the weights, and how the model was built, to a ``.safetensors`` or ``.npz`` file.

        A model that `xpcnn.models` built is described by name and arguments, any other by its structure, as
        `config` returns it: `load_model` reads both. A model with a layer that is not registered is saved
        without: its file says so, and so does the log.

        Raises
        ------
        CheckpointError
            When the file cannot be written. An existing file is replaced whole or not at all.
        """
        spec = spec_of(cast("Any", self))
        if spec.missing is not None:
            _log.warning(
                "%s: saved without its structure, so load_model cannot build it: %s", path, spec.missing
            )
        arrays = {path: to_numpy(array) for path, array in self.state_dict().items()}
        save_arrays(path, arrays, {"spec": describe_spec(spec)})

    def load(self, path: str | PathLike[str], *, strict: bool = True) -> LoadReport:
        """Read the weights of a ``.safetensors`` or ``.npz`` file into this layer.

        Of a file that xpcnn did not write, only entries that the layer may take are read.

        Raises
        ------
        CheckpointError
            When the file cannot be read.
        StateDictError
            When its entries do not fit, as `load_state_dict` says.
        """
        wanted = {state_path: state.shape for state_path, state in self._states().items()}
        arrays = load_weights(path, wanted).arrays
        try:
            return self.load_state_dict(arrays, strict=strict)
        except StateDictError as error:
            raise StateDictError(f"{path}: {error}") from error


def _load_state(layer: Any, state: Mapping[str, Any], strict: bool) -> LoadReport:
    if not isinstance(state, Mapping):
        raise StateDictError(
            f"load_state_dict: state must be a mapping of paths to arrays, got {type(state).__name__}"
        )
    own = layer._states()
    # The form that fits most of the model's paths; of several, the first.
    found, notes = max(_forms(state, (), _DEEPEST), key=lambda form: sum(path in own for path in form[0]))
    entries = {str(path): value for path, value in found.items()}
    missing = [path for path in own if path not in entries and not path.endswith(_OPTIONAL)]
    unexpected = [path for path in entries if path not in own]
    shapes = {path: _shape(entries[path]) for path in own if path in entries}
    mismatched = [path for path, shape in shapes.items() if shape != own[path].shape]
    # Counters fit those of any other model, and say nothing.
    useful = any(path not in mismatched and not path.endswith(_OPTIONAL) for path in shapes)
    if (strict and (missing or unexpected or mismatched)) or (own and not useful):
        kinds = {
            "missing": [f"{path} {own[path].shape}" for path in missing],
            "unexpected": [f"{_named(path)} {_shown(entries[path])}" for path in unexpected],
            "wrong shape": [
                f"{path} is {_shown(entries[path])} but the model has {own[path].shape}"
                for path in mismatched
            ],
        }
        lines = [*_lines(type(layer).__name__, kinds), *_reason(own, entries)]
        if not useful:
            lines.append("none of them fits, so there is nothing to load")
        elif strict:
            lines.append("strict=False loads the entries that fit")
        raise StateDictError("\n".join(lines))
    loaded: list[tuple[State, Array]] = []
    for path in shapes:
        if path not in mismatched:
            target = own[path]
            backend = home_of(target.data)
            try:
                if "complex" in str(getattr(entries[path], "dtype", "")):
                    raise TypeError("expected real numbers, got complex ones")
                data = backend.copy(backend.asarray(entries[path], target.dtype))
            except (ValueError, TypeError, RuntimeError) as error:  # a RuntimeError for PyTorch's meta device
                raise StateDictError(f"load_state_dict: {path} does not hold numbers: {error}") from error
            loaded.append((target, data))
    for target, data in loaded:  # only now that none failed
        target.data = data
    for note in notes:
        _log.info("load_state_dict: %s", note)
    report = LoadReport(missing, unexpected, mismatched)
    report.notes = notes
    return report


# -- where the entries are ----------------------------------------------------------------


def _forms(
    state: Mapping[str, Any], notes: tuple[str, ...], depth: int
) -> Iterator[tuple[Mapping[str, Any], tuple[str, ...]]]:
    """Yield a state as it is, without each prefix, and what is nested in it, with notes on what was done."""
    yield state, notes
    for prefix in _prefixes(state):
        short = {str(path).removeprefix(prefix): value for path, value in state.items()}
        if len(short) == len(state):
            yield short, (*notes, f"took the prefix {prefix!r} off the saved paths")
    nested = [key for key, value in state.items() if isinstance(value, Mapping) and depth]
    for key in sorted(nested, key=lambda key: _NESTS.index(key) if key in _NESTS else len(_NESTS)):
        others = ", ".join(repr(other) for other in state if other != key)
        passed_over = f" and passed over {others}" if others else ""
        note = f"took the entries in [{key!r}]{passed_over}"
        yield from _forms(state[key], (*notes, note), depth - 1)


def _prefixes(state: Mapping[str, Any]) -> list[str]:
    """Return every row of known segments that a path begins with, the shortest first."""
    found = set()
    for path in state:
        segments = str(path).split(".")[:-1][:_DEEPEST]
        for i, segment in enumerate(segments):
            if segment not in _PREFIXES:
                break
            found.add(".".join(segments[: i + 1]) + ".")
    return sorted(found, key=len)


# -- what does not fit --------------------------------------------------------------------


def _lines(kind: str, faults: Mapping[str, list[str]]) -> Iterator[str]:
    """Yield at most eight lines on entries that do not fit, by kind of fault."""
    many = sum(map(len, faults.values())) > _MOST_LINES
    counts = ", ".join(f"{len(lines)} {fault}" for fault, lines in faults.items() if lines)
    yield f"load_state_dict: the saved entries do not fit this {kind}{f' ({counts})' if many else ''}:"
    for fault, lines in faults.items():
        shown = lines[:2] if many else lines
        more = f" and {len(lines) - len(shown)} more" if len(lines) > len(shown) else ""
        for i, line in enumerate(shown, 1):
            yield f"  {fault}: {line}" + (more if i == len(shown) else "")


def _reason(own: Mapping[str, State], entries: Mapping[str, Any]) -> Iterator[str]:
    """Yield the likely reason, where there is one."""
    fitting = {path: _shape(value) or () for path, value in entries.items() if path in own}
    if not own:
        yield "likely: the model has no parameters"
    elif entries and not fitting:
        ours, theirs = _common_segment(own), _common_segment(entries)
        if theirs and any(path.removeprefix(theirs) in own for path in entries):
            yield f"likely: all saved paths begin with {theirs!r}; take this prefix off"
        elif ours and any(ours + path in own for path in entries):
            yield f"likely: the entries are those of the child {ours[:-1]!r}; load them into it"
        else:
            yield "likely: the entries are those of another model"
    # Of the last layer, only the number of outputs is another one.
    differing = [path for path, shape in fitting.items() if shape != own[path].shape]
    if len({path.rpartition(".")[0] for path in differing}) == 1 and len(fitting) > len(differing):
        pairs = [(fitting[path], own[path].shape) for path in differing]
        if all(theirs and ours and theirs[1:] == ours[1:] for theirs, ours in pairs):
            yield f"likely: saved with {pairs[0][0][0]} outputs (classes), not {pairs[0][1][0]}"


def _common_segment(paths: Mapping[str, Any]) -> str:
    """Return the first segment of all paths, with a dot behind it; nothing where they differ."""
    first = {path.partition(".")[0] + "." for path in paths}
    return first.pop() if len(first) == 1 and all("." in path for path in paths) else ""


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of an array; None of anything else."""
    return tuple(value.shape) if hasattr(value, "shape") else None


def _named(path: str) -> str:
    """Return a path that a file may have made up, on one line."""
    return path if path.isprintable() and len(path) <= _LONGEST else in_words(path)


def _shown(value: Any) -> str:
    shape = _shape(value)
    return f"({type(value).__name__}, no array)" if shape is None else str(shape)
