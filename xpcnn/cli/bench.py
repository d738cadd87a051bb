"""Time convolution by algorithm, layers, or whole models, and compare two such measurements.

Every result is held against an independent answer before it is timed. All contestants have their turn in each
round, so that a machine whose speed drifts slows them alike; medians are told, with their spread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xpcnn import ops
from xpcnn.backend.torch_peer import TorchPeer, torch_is_installed
from xpcnn.bench import convolutions, layers, networks
from xpcnn.bench.geometries import BATCHES, CONVOLUTIONS, LAYERS, NETWORKS, SIZES
from xpcnn.bench.measure import Problem
from xpcnn.bench.record import load
from xpcnn.bench.report import comparison
from xpcnn.cli.benchmarking import Plan, measure_all
from xpcnn.cli.options import DTYPES, add_device_options, choose_backend, count
from xpcnn.cli.parser import Parser, UsageError

__all__ = ["add_arguments", "run"]

_ROUNDS = 7
_PEERS = ("torch", "loop")
_SWEEPS = {**BATCHES, **SIZES}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be measured, each with its options."""
    kinds = parser.add_subparsers(
        metavar="WHAT", required=True, parser_class=Parser, help="each has its own help"
    )

    conv = _kind(kinds, "conv", "convolution: algorithm by pass, beside the matrix product it comes down to")
    _add_choice(conv, "--algorithms", ops.algorithm_names())
    _add_choice(
        conv,
        "--geometries",
        (*CONVOLUTIONS, *_SWEEPS),
        f"shapes, of {', '.join(CONVOLUTIONS)}, and batch and size, which are series, timed forward "
        "(default: all but the series; with --plot those too)",
    )
    _add_choice(conv, "--passes", convolutions.PASSES)
    _add_common(conv, _conv, "torch if installed", "torch, loop (that of from-scratch articles), or none")

    pool = _kind(kinds, "pool", "pooling, batch normalisation and ReLU")
    _add_choice(pool, "--geometries", tuple(LAYERS))
    _add_choice(pool, "--passes", layers.PASSES)
    _add_common(pool, _pool, "torch if installed", "torch, or none")

    model = _kind(kinds, "model", "a training step and inference of whole models")
    names = ops.algorithm_names()
    _add_choice(model, "--algorithms", names, f"of convolution: {', '.join(names)} (default: auto)")
    _add_choice(model, "--geometries", tuple(NETWORKS))
    _add_choice(model, "--passes", networks.PASSES)
    _add_common(model, _model, "torch if installed", "torch, or none")

    compare = _kind(kinds, "compare", "two measurements that were kept with --json")
    compare.add_argument("before", type=Path, metavar="A", help="the JSON file of the first measurement")
    compare.add_argument("after", type=Path, metavar="B", help="the JSON file of the second")
    compare.set_defaults(bench=_compare)


def _kind(kinds: Any, name: str, told: str) -> Parser:
    parser: Parser = kinds.add_parser(name, help=told, description=told[0].upper() + told[1:] + ".")
    parser.set_defaults(parser=parser)
    return parser


def _add_choice(
    parser: argparse.ArgumentParser, option: str, known: tuple[str, ...], told: str | None = None
) -> None:
    """Add an option that takes several of the names known, with commas between them."""

    def names(text: str) -> tuple[str, ...]:
        chosen: list[str] = []
        for name in text.split(","):
            series = [one for one in known if one.startswith(f"{name}-") and one in _SWEEPS]
            if name not in known and not series:
                raise argparse.ArgumentTypeError(f"{name!r} is unknown; there are {', '.join(known)}")
            chosen += [name] if name in known else series
        return tuple(dict.fromkeys(chosen))

    parser.add_argument(
        option, type=names, metavar="A,B,...", help=told or f"of {', '.join(known)} (default: all)"
    )


def _add_common(
    parser: argparse.ArgumentParser, run_kind: Callable[[argparse.Namespace], int], peers: str, known: str
) -> None:
    add_device_options(parser)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="(default: %(default)s)")
    parser.add_argument(
        "--threads",
        type=count,
        default=1,
        metavar="N",
        help="of xpcnn and BLAS, and of the peers (default: 1)",
    )
    parser.add_argument("--repeat", type=count, default=_ROUNDS, metavar="N", help="rounds (default: 7)")
    parser.add_argument(
        "--peers", metavar="A,B", help=f"what to time beside ours: {known} (default: {peers})"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="keep the measurement here (default: nowhere)"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw it here, .png, .svg or .pdf (default: nothing)"
    )
    parser.usage = "%(prog)s [OPTION ...]"
    parser.set_defaults(bench=run_kind)


def run(args: argparse.Namespace) -> int:
    """Measure, or compare."""
    status: int = args.bench(args)
    return status


def _conv(args: argparse.Namespace) -> int:
    peers = _peers(args, _PEERS)
    passes = args.passes or convolutions.PASSES
    chosen = args.geometries or (*CONVOLUTIONS, *(_SWEEPS if args.plot else ()))
    plan, torch = _plan(args, "conv", peers)

    def problem(name: str) -> Problem:
        swept = name in _SWEEPS
        return convolutions.problem(
            name,
            _SWEEPS[name] if swept else CONVOLUTIONS[name],
            plan.backend,
            dtype=args.dtype,
            algorithms=args.algorithms,
            passes=passes if args.passes or not swept else passes[:1],
            torch_peer=torch,
            plain_loop="loop" in peers,
        )

    return measure_all(plan, chosen, problem)


def _pool(args: argparse.Namespace) -> int:
    plan, torch = _plan(args, "pool", _peers(args, _PEERS[:1]))

    def problem(name: str) -> Problem:
        passes = args.passes or layers.PASSES
        return layers.problem(
            name, LAYERS[name], plan.backend, dtype=args.dtype, passes=passes, torch_peer=torch
        )

    return measure_all(plan, args.geometries or tuple(LAYERS), problem)


def _model(args: argparse.Namespace) -> int:
    plan, torch = _plan(args, "model", _peers(args, _PEERS[:1]))

    def problem(name: str) -> Problem:
        return networks.problem(
            name,
            NETWORKS[name],
            plan.backend,
            dtype=args.dtype,
            algorithms=args.algorithms or ("auto",),
            passes=args.passes or networks.PASSES,
            torch_peer=torch,
        )

    return measure_all(plan, args.geometries or tuple(NETWORKS), problem)


def _compare(args: argparse.Namespace) -> int:
    before, after = load(args.before), load(args.after)
    if before.kind != after.kind:
        raise UsageError(f"{args.before} is of bench {before.kind}, but {args.after} of bench {after.kind}")
    print(comparison(before, after))
    return 0


def _peers(args: argparse.Namespace, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the peers asked for, of those known and installed."""
    if args.peers is None:
        return ("torch",) if torch_is_installed() else ()
    peers = () if args.peers == "none" else tuple(args.peers.split(","))
    for peer in peers:
        if peer not in known:
            raise UsageError(f"--peers: {peer!r} is unknown; there are {', '.join(known)}, or none")
    if "torch" in peers and not torch_is_installed():
        raise UsageError("--peers torch: PyTorch is not installed: pip install 'xpcnn[torch]'")
    return peers


def _plan(args: argparse.Namespace, kind: str, peers: tuple[str, ...]) -> tuple[Plan, TorchPeer | None]:
    """Return what is to be done, and PyTorch on the same device where it is a peer."""
    plan = Plan.of(args, kind, choose_backend(args.backend, args.device), peers)
    if "torch" not in peers:
        return plan, None
    device = f"cuda:{plan.backend.device}" if plan.backend.name == "cupy" else str(plan.backend.device)
    device = "cpu" if plan.backend.name in ("numpy", "array_api_strict") else device
    return plan, TorchPeer(device, args.threads, plan.backend.tf32)
