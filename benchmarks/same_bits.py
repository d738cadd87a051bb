"""Whether two commits train to the same bits: ten steps of three networks, compared by digest.

::

    python -m benchmarks.same_bits REVISION

trains here, and in a checkout of the revision. For each network, number of threads and kind of images it
prints both digests: of the ten losses, and of all parameters and buffers after the tenth step. The exit
status is 1 where any differ. Bits are those of one machine and one BLAS: there is nothing to be kept but this
script.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

STEPS = 10
CASES = ("simple_convnet", "deep_convnet", "resnet20")
INPUTS = {"simple_convnet": (1, 28, 28), "deep_convnet": (1, 28, 28), "resnet20": (3, 32, 32)}
BATCH = {"simple_convnet": 100, "deep_convnet": 60, "resnet20": 48}
_ROOT = Path(__file__).resolve().parents[1]


def digests(threads: int) -> dict[str, str]:
    """Return the digest of each case, trained by the package that is imported."""
    import xpcnn
    from xpcnn import Trainer, models, optim

    xpcnn.set_num_threads(threads)
    found = {}
    for name in CASES:
        for kind in ("bytes", "floats"):
            rng = np.random.default_rng(7)
            model = getattr(models, name)(seed=1)
            trainer = Trainer(model, optim.SGD(model, lr=0.01, momentum=0.9), seed=3)
            digest = hashlib.sha256()
            for _ in range(STEPS):
                x = rng.integers(0, 256, (BATCH[name], *INPUTS[name]), dtype=np.uint8)
                t = rng.integers(0, 10, BATCH[name])
                images = x if kind == "bytes" else x.astype(np.float32) / 255
                digest.update(np.asarray(trainer.step(images, t)).tobytes())
            for path, array in model.state_dict().items():
                digest.update(path.encode() + np.ascontiguousarray(array).tobytes())
            found[f"{name}, {kind}"] = digest.hexdigest()[:16]
    return found


def digests_of(checkout: Path, threads: int) -> dict[str, str]:
    """Return the digests that another checkout's package gives, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--digests", str(threads)]
    answer = subprocess.run(command, env=environment, cwd=tempfile.gettempdir(), stdout=subprocess.PIPE)
    if answer.returncode:
        raise SystemExit(f"{checkout}: training failed, see above")
    found: dict[str, str] = json.loads(answer.stdout)
    return found


def main() -> int:
    """Compare, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("revision", nargs="?", help="a commit, branch or tag of this repository")
    parser.add_argument("--digests", type=int, metavar="THREADS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.digests:
        print(json.dumps(digests(options.digests)))
        return 0
    if not options.revision:
        parser.error("a revision is needed, such as HEAD~1")
    differ = 0
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "checkout"
        git = ["git", "-C", str(_ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(other), options.revision], check=True)
        try:
            for threads in (1, 2):
                before, now = digests_of(other, threads), digests_of(_ROOT, threads)
                for case, digest in now.items():
                    same = digest == before[case]
                    differ += not same
                    print(
                        f"{case}, {threads} threads: {before[case]} {digest} {'same' if same else 'DIFFERS'}"
                    )
        finally:
            subprocess.run([*git, "remove", "--force", str(other)], check=True)
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
