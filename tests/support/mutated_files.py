"""Damages files of every kind that xpcnn reads, and counts what reading them does.

    python mutated_files.py FOLDER CASES_OF_EACH_KIND SEED

prints a JSON object: for each kind how many were "read" and how many "refused" (by an `XpcnnError`), and
under "failures" what else happened. It runs in a process of its own, with little memory and an alarm.
"""

import collections
import copy
import gzip
import json
import logging
import pickle
import random
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from xpcnn import data, io, models, nn, optim
from xpcnn.cli.settings import Settings
from xpcnn.data import read_idx
from xpcnn.data.idx import write_idx
from xpcnn.errors import XpcnnError
from xpcnn.io.pickles import read_pickle
from xpcnn.ops.conv.tuning_cache import TuningCache
from xpcnn.train import RunDirectory, Trainer, load_model, restore_checkpoint, save_checkpoint

MEMORY, SECONDS = 1 << 29, 10
MANY_DIGITS, DEEP = "9" * 5000, "[" * 2000 + "]" * 2000

# Texts stand for what json.dumps cannot write; `dumped` puts it in their places.
RAW = {"«inf»": "Infinity", "«nan»": "NaN", "«digits»": MANY_DIGITS, "«deep»": DEEP, "«1e999»": "1e999"}
VALUES = [
    *RAW, None, True, False, 0, 1, -1, 2, 3.5, -0.5, 1e-320, 1e308, 10**9, 2**31, 2**63, 10**40, -(10**18),
    "", "x", "\x1b[2J", "\ud800", "int8", "float16", "1", "tiny_convnet", "ensemble", [], {}, [[]], [1],
    [0.5, 0.5], ["x"], [None], [1, 28, 28], [0, 0, 0], [10**9, 1, 1], {"x": 1}, {"name": "tiny_convnet"},
]  # fmt: skip

INSERTED = (bytes(8), b"\xff" * 8, MANY_DIGITS.encode(), b"Infinity", b"NaN", b"[" * 3000)
ODD = (np.zeros(0), np.ones((2, 3)), np.float64(1), np.full(3, np.nan), np.ones(3, bool))
Damage = Callable[[random.Random], Any]


def dumped(tree):
    text = json.dumps(tree)
    for mark, raw in RAW.items():
        text = text.replace(json.dumps(mark), raw)
    return text


def changed(tree, rng):
    """A copy of a JSON value in which one to three nodes are something else."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(nodes(tree))
        if not places:
            return copy.deepcopy(rng.choice(VALUES))
        parent, key = rng.choice(places)
        what = rng.random()
        if what < 0.7:
            parent[key] = copy.deepcopy(rng.choice(VALUES))
        elif what < 0.8:
            del parent[key]
        elif what < 0.9 and isinstance(parent, dict):
            parent[rng.choice(("x", "name", "members", "seed", "dtype"))] = parent.pop(key)
        else:
            parent[key] = [copy.deepcopy(parent[key]) for _ in range(rng.choice((1, 2, 40)))]
    return tree if rng.random() < 0.97 else rng.choice(VALUES)


def nodes(tree):
    """Every place in a JSON value, as the list or dict it is in and its index or name."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from nodes(tree[key])


def damaged(content, rng):
    """Bytes with bits flipped, bytes changed, cut out, repeated or put in, or cut off."""
    bad = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        end = max(len(bad) - 1, 0)
        at = rng.choice(
            (rng.randint(0, end), rng.randint(0, min(end, 200)), rng.randint(max(0, end - 400), end))
        )
        what = rng.randrange(6)
        if what == 0 and bad:
            bad[at] ^= 1 << rng.randrange(8)
        elif what == 1 and bad:
            bad[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, ord("0"), ord("9"), ord("["), ord('"')))
        elif what == 2:
            del bad[at : at + rng.choice((1, 4, 50))]
        elif what == 3:
            bad[at:at] = bad[at : at + rng.choice((1, 8, 100))]
        elif what == 4:
            bad[at:at] = rng.choice(INSERTED)
        else:
            del bad[at:]
    return bytes(bad)


def check_plain(found):
    """Require data: what a pickle may hold."""
    waiting = [found]
    for value in waiting:
        if len(waiting) > 10_000:  # a list in itself, or many times over
            return
        assert isinstance(value, bool | int | float | str | list | tuple | dict | np.ndarray | np.generic)
        if isinstance(value, np.ndarray):
            assert value.dtype.kind in "fiub"
        elif isinstance(value, list | tuple | dict):
            waiting += value.values() if isinstance(value, dict) else value


def of_bytes(path):
    content = path.read_bytes()
    return lambda rng: path.write_bytes(damaged(content, rng))


def of_gzip(path):
    """Damage content before it is compressed."""
    content = gzip.decompress(path.read_bytes())
    return lambda rng: path.write_bytes(gzip.compress(damaged(content, rng)))


def of_json(path):
    """Damage the JSON on one of the lines, mostly; else bytes."""
    lines, other = path.read_text().splitlines(), of_bytes(path)
    if path.suffix == ".json":
        lines = ["".join(lines)]

    def damage(rng):
        bad, number = list(lines), rng.randrange(len(lines))
        bad[number] = dumped(changed(json.loads(lines[number]), rng))
        if rng.random() < 0.7:
            path.write_text("\n".join(bad) + "\n", encoding="utf-8")
        else:
            other(rng)

    return damage


def of_metadata(path):
    """Damage what the metadata say, in a file that is whole: its digest is right."""
    arrays, metadata = io.load_arrays(path)

    def damage(rng):
        found, noted, name = dict(arrays), dict(metadata), rng.choice(list(metadata))
        try:
            noted[name] = dumped(changed(json.loads(noted[name]), rng))
        except ValueError:  # no JSON
            noted[name] = rng.choice((MANY_DIGITS, "-1", "", "xpcnn checkpoint", "two"))
        if rng.random() < 0.2:
            found[rng.choice([*found, "x", "optimizer/x", "/", ""])] = rng.choice(ODD)
        io.save_arrays(path, found, noted)

    return damage


def trainer():
    model = models.tiny_convnet((1, 6, 6), filters=2, classes=3)
    adam = optim.Adam(model)
    return Trainer(model, adam, schedule=optim.StepLR(adam, 2), average=optim.WeightAverage(model, 0.9))


def kinds(folder):
    """A small file of each kind in the folder, how it is read, and how it is damaged."""
    digits = data.synthetic_digits(20, seed=0)
    digits = data.Dataset(digits.images[:, :, ::5, ::5], digits.labels % 3, 3)
    trained = trainer()
    (folder / "run").mkdir()
    config = Settings("numpy", model_options={"filters": 4}, lr=0.1).to_config()
    run = RunDirectory(folder / "run", config)
    trained.fit(digits, digits, 3, 10, progress=None, callbacks=[run])
    model = trained.model
    both = nn.Ensemble(models.tiny_convnet((1, 6, 6), seed=1), models.tiny_convnet((1, 6, 6), seed=2))
    for name in ("w.safetensors", "w.npz", "described.safetensors", "described.npz"):
        model.save(folder / name)
    both.save(folder / "ensemble.safetensors")
    rows = models.lenet5(seed=1)
    rows.squash6 = nn.Residual(nn.LeakyReLU(0.1), nn.Identity())
    rows.save(folder / "structure.npz")
    for name in ("c.safetensors", "described-c.safetensors"):
        save_checkpoint(folder / name, trained)
    write_idx(folder / "i", np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    write_idx(folder / "i.gz", np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    (folder / "autotune.json").write_text(json.dumps({"a task": "mec"}))
    other = trainer()
    old = {"losses": [1.5, None], "epochs": [vars(trained.history.epochs[0])], "interrupted": False}
    (folder / "old").mkdir()
    (folder / "old" / "config.json").write_text(json.dumps(config))
    (folder / "old" / "history.json").write_text(json.dumps(old))

    def settings_of(path):
        found = RunDirectory(path.parent)
        Settings.of_run(found.config(), found.config_file)

    def cached(path):
        len(TuningCache(path).choices)

    def history(path):
        RunDirectory(path.parent).history()

    def restore(path):
        restore_checkpoint(path, other)

    found = {
        "safetensors": (folder / "w.safetensors", load_model, of_bytes),
        "npz": (folder / "w.npz", load_model, of_bytes),
        "recipe": (folder / "described.safetensors", load_model, of_metadata),
        "recipe in npz": (folder / "described.npz", load_model, of_metadata),
        "structure": (folder / "structure.npz", load_model, of_metadata),
        "ensemble": (folder / "ensemble.safetensors", load_model, of_metadata),
        "checkpoint": (folder / "c.safetensors", restore, of_bytes),
        "checkpoint's metadata": (folder / "described-c.safetensors", restore, of_metadata),
        "idx": (folder / "i", read_idx, of_bytes),
        "idx.gz": (folder / "i.gz", read_idx, of_bytes),
        "idx in gz": (folder / "i.gz", read_idx, of_gzip),
        "settings": (run.config_file, settings_of, of_json),
        "old settings": (folder / "old" / "config.json", settings_of, of_json),
        "old history": (folder / "old" / "history.json", history, of_json),
        "history": (run.history_file, history, of_json),
        "tuning cache": (folder / "autotune.json", cached, of_json),
    }
    arrays = {"W1": np.ones((1, 1, 3, 3)), "b1": np.zeros(1, "f4"), "W2": np.arange(8).reshape(4, 2)}
    for protocol in (0, 2, 4, 5):
        path = folder / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps(arrays, protocol))
        found[f"pickle {protocol}"] = (path, lambda path: check_plain(read_pickle(path)), of_bytes)
    return {name: (path, read, damage(path)) for name, (path, read, damage) in found.items()}


def main(folder, cases, seed):
    """Damage each kind of file so many times."""
    found = {}
    failures = collections.Counter()
    all_kinds = kinds(folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("it hangs")))
    warnings.simplefilter("ignore")  # NaN in weights, a tuning cache that is left out
    logging.disable()  # a last line that is left out
    for name, (path, read, damage) in all_kinds.items():
        content = path.read_bytes()
        counts = collections.Counter(read=0, refused=0, failed=0)
        for case in range(cases):
            damage(random.Random(f"{seed} {name} {case}"))
            signal.alarm(SECONDS)
            try:
                read(path)
                counts["read"] += 1
            except XpcnnError as error:
                counts["refused"] += 1
                if len(str(error)) > 4000:
                    failures[f"{name}: a message of {len(str(error))} characters"] += 1
            except Exception as error:
                counts["failed"] += 1
                last = traceback.extract_tb(error.__traceback__)[-1]
                told = f"{name}: {type(error).__name__}: {str(error)[:70]!a} in {Path(last.filename).name}"
                failures[told] += 1
            finally:
                signal.alarm(0)
        path.write_bytes(content)
        found[name] = dict(counts)
    return {"kinds": found, "failures": dict(failures.most_common())}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])), indent=1))
