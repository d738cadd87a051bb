"""Schedules against torch.optim.lr_scheduler over whole runs; how they count, save and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.optim import mentions
from xpcnn import nn, optim
from xpcnn.errors import ArgumentError, StateDictError

RTOL, ATOL = 1e-11, 1e-16
"""torch goes from each rate to the next, which costs it some digits, most where a cosine ends."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "StepLR": ("StepLR", {"step_size": 7}),
    "StepLR gamma": ("StepLR", {"step_size": 1, "gamma": 0.75}),
    "ExponentialLR": ("ExponentialLR", {"gamma": 0.9}),
    "CosineAnnealingLR": ("CosineAnnealingLR", {"T_max": 50}),
    "CosineAnnealingLR beyond": ("CosineAnnealingLR", {"T_max": 13, "eta_min": 0.05}),
    "OneCycleLR": ("OneCycleLR", {"max_lr": 0.3, "total_steps": 50}),
    "OneCycleLR odd": (
        "OneCycleLR",
        {"max_lr": 2.0, "total_steps": 37, "pct_start": 0.31, "div_factor": 4.0, "final_div_factor": 8.0},
    ),
    "only rising": ("OneCycleLR", {"max_lr": 0.3, "total_steps": 20, "pct_start": 1.0}),
    "only falling": ("OneCycleLR", {"max_lr": 0.3, "total_steps": 20, "pct_start": 0.0}),
    "one step": ("OneCycleLR", {"max_lr": 0.3, "total_steps": 1}),
}


def sgd(lr: float = 0.4, **options: Any) -> optim.SGD:
    return optim.SGD(nn.Linear(2, 1), lr=lr, **options)


def walk(schedule: optim.Schedule, steps: int) -> list[float]:
    """The optimiser's lr before each of `steps` steps."""
    rates = []
    for number in range(steps):
        assert schedule.last_step == number
        assert schedule.optimizer.lr == schedule.lr_at(number)
        rates.append(schedule.optimizer.lr)
        schedule.step()
    return rates


def torch_walk(make_schedule: Callable[[Any, Any], Any], steps: int, lr: float = 0.4) -> list[float]:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    schedule = make_schedule(optimizer, torch.optim.lr_scheduler)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(1, steps):  # its OneCycleLR cannot always be stepped after the last one
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def torchs(optimizer: Any, schedulers: Any, name: str, options: dict[str, Any]) -> Any:
    more = {"cycle_momentum": False} if name == "OneCycleLR" else {}
    return getattr(schedulers, name)(optimizer, **options, **more)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_follows_torch(case: tuple[str, dict[str, Any]]) -> None:
    name, options = case
    steps = options.get("total_steps", 50)
    own = walk(getattr(optim, name)(sgd(), **options), steps)
    np.testing.assert_allclose(own, torch_walk(lambda o, s: torchs(o, s, *case), steps), rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize(("steps", "start_factor"), [(1, 1 / 3), (10, 0.01), (10, 1.0)])
@pytest.mark.parametrize("name", ["StepLR", "CosineAnnealingLR", "OneCycleLR", None])
def test_warmup_follows_torch(name: str | None, steps: int, start_factor: float) -> None:
    def with_warmup(optimizer: Any, schedulers: Any) -> Any:
        then = None if name is None else torchs(optimizer, schedulers, *CASES[name])
        first = schedulers.LinearLR(optimizer, start_factor=start_factor, total_iters=steps)
        return (then and schedulers.SequentialLR(optimizer, [first, then], milestones=[steps])) or first

    optimizer = sgd()
    then = None if name is None else getattr(optim, name)(optimizer, **CASES[name][1])
    own = walk(optim.LinearWarmup(optimizer, steps, then=then, start_factor=start_factor), 40)
    np.testing.assert_allclose(own, torch_walk(with_warmup, 40), rtol=RTOL, atol=ATOL)


def test_the_ends_are_exact() -> None:
    cycle = optim.OneCycleLR(sgd(), max_lr=0.3, total_steps=10, pct_start=0.5, div_factor=10.0)
    assert [cycle.lr_at(step) for step in (0, 4, 9)] == [0.03, 0.3, 0.03 / 1e4]
    cosine = optim.CosineAnnealingLR(sgd(0.1), T_max=9, eta_min=0.03)
    assert [cosine.lr_at(step) for step in (0, 9, 18)] == [0.1, 0.03, 0.1]
    assert optim.OneCycleLR(sgd(), max_lr=0.3, total_steps=1, pct_start=1.0).lr_at(0) == 0.3
    # PyTorch divides by 0 where the rise would take exactly one step
    assert optim.OneCycleLR(sgd(), max_lr=0.3, total_steps=4, pct_start=0.25).lr_at(0) == 0.3
    # and ends with an error after the last step, where the rate stays here
    assert [cycle.lr_at(step) for step in (10, 10_000)] == [0.03 / 1e4] * 2


def test_groups_keep_their_ratio() -> None:
    optimizer = sgd(0.4, groups={"bias": {"lr": 0.1}})
    schedule = optim.LinearWarmup(optimizer, 4, optim.StepLR(optimizer, 2), start_factor=0.5)
    for number in range(10):
        assert optimizer.options_of("weight")["lr"] == schedule.lr_at(number)
        assert optimizer.options_of("bias")["lr"] == schedule.lr_at(number) / 4
        schedule.step()


def every() -> list[optim.Schedule]:
    """One of each, away from the defaults."""
    made = [getattr(optim, name)(sgd(), **options) for name, options in CASES.values()]
    made.append(optim.LinearWarmup(sgd(), 5))
    for outer in (3, 9):
        optimizer = sgd()
        inner = optim.LinearWarmup(optimizer, 6, optim.CosineAnnealingLR(optimizer, 10), 0.7)
        made.append(optim.LinearWarmup(optimizer, outer, inner))
    return made


@pytest.mark.parametrize("number", range(len(every())))
@pytest.mark.parametrize("stop", [0, 4, 14])
def test_goes_on_from_saved_state(number: int, stop: int) -> None:
    whole, first, second = (every()[number] for _ in range(3))
    expected = walk(whole, 20)
    walk(first, stop)
    state = json.loads(json.dumps(first.state_dict(), sort_keys=True))
    assert (state["kind"], state["step"]) == (type(first).__name__, stop)
    walk(second, 2)
    second.load_state_dict(state)
    assert second.last_step == stop
    assert second.state_dict() == first.state_dict()
    rates = [second.optimizer.lr]
    for _ in range(stop + 1, 20):
        second.step()
        rates.append(second.optimizer.lr)
    assert rates == expected[stop:]


def test_the_saved_base_rate_is_taken() -> None:
    """A resumed optimiser's rate is that of its last step, which is not what the schedule started from."""
    optimizer = sgd(0.4)
    schedule = optim.LinearWarmup(optimizer, 3, optim.CosineAnnealingLR(optimizer, 10))
    walk(schedule, 8)
    other = sgd(optimizer.lr)
    resumed = optim.LinearWarmup(other, 3, optim.CosineAnnealingLR(other, 10))
    resumed.load_state_dict(schedule.state_dict())
    assert other.lr == optimizer.lr
    assert [resumed.lr_at(s) for s in range(20)] == [schedule.lr_at(s) for s in range(20)]


MADE: dict[str, Callable[[Any], optim.Schedule]] = {
    "cycle": lambda o: optim.OneCycleLR(o, max_lr=0.3, total_steps=10),
    "longer": lambda o: optim.OneCycleLR(o, max_lr=0.2, total_steps=12),
    "step": lambda o: optim.StepLR(o, 3),
    "warm": lambda o: optim.LinearWarmup(o, 3),
    "warm step": lambda o: optim.LinearWarmup(o, 3, optim.StepLR(o, 4)),
    "warm 5-step": lambda o: optim.LinearWarmup(o, 3, optim.StepLR(o, 5)),
    "warm exponential": lambda o: optim.LinearWarmup(o, 3, optim.ExponentialLR(o, 0.5)),
}
UNFIT = [
    ("longer", "cycle", ("max_lr: saved 0.2, here 0.3", "total_steps: saved 12, here 10")),
    ("step", "cycle", ("kind: saved 'StepLR', here 'OneCycleLR'", "unexpected: step_size")),
    ("warm step", "warm exponential", ("then.kind: saved 'StepLR', here 'ExponentialLR'",)),
    ("warm step", "warm 5-step", ("then.step_size: saved 4, here 5",)),
    ("warm step", "warm", ("unexpected: then.kind", "missing: then\n")),
    ("warm", "warm step", ("missing: then.kind", "unexpected: then")),
]


@pytest.mark.parametrize(("saved", "here", "parts"), UNFIT)
def test_state_that_does_not_fit(saved: str, here: str, parts: tuple[str, ...]) -> None:
    schedule = MADE[here](sgd())
    schedule.step()
    before = (schedule.last_step, schedule.optimizer.lr)
    with pytest.raises(StateDictError, match=mentions("load_state_dict: the saved state does not", *parts)):
        schedule.load_state_dict(MADE[saved](sgd()).state_dict())
    own = schedule.state_dict()
    for broken in ({}, None, {**own, "step": -1}, {**own, "base_lr": "x"}):
        with pytest.raises(StateDictError, match="not the state of a schedule"):
            schedule.load_state_dict(broken)
    assert (schedule.last_step, schedule.optimizer.lr) == before


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "step_size": (lambda o: optim.StepLR(o, 0), "StepLR: step_size must be an integer of at least 1"),
    "no step_size": (lambda o: optim.StepLR(o), "StepLR: missing a required argument: 'step_size'"),
    "gamma": (lambda o: optim.StepLR(o, 2, gamma=0.0), "StepLR: gamma must be above 0, got 0.0"),
    "T_max": (lambda o: optim.CosineAnnealingLR(o, -1), "T_max must be an integer"),
    "pct_start": (lambda o: optim.OneCycleLR(o, 0.1, 10, 1.5), "pct_start must be from 0 to 1"),
    "start_factor": (lambda o: optim.LinearWarmup(o, 3, None, 1.5), "start_factor must be from 0 to 1"),
    "then": (lambda o: optim.LinearWarmup(o, 3, "cosine"), "LinearWarmup: then must be a new schedule"),
    "another's": (lambda o: optim.LinearWarmup(o, 3, optim.StepLR(sgd(), 2)), "of the same optimiser"),
    "model": (lambda o: optim.StepLR(nn.Linear(2, 1), 2), "must be an optimiser.*got Linear"),
    "no formula": (lambda o: optim.Schedule(o), "Schedule does not define formula"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused(case: tuple[Callable[[Any], Any], str]) -> None:
    optimizer = sgd(0.4)
    with pytest.raises((ArgumentError, TypeError), match=case[1]):
        case[0](optimizer)
    assert optimizer.lr == 0.4


def test_refused_later_and_repr() -> None:
    optimizer = sgd()
    schedule = optim.ExponentialLR(optimizer, 1e9)
    with pytest.raises(ArgumentError, match="lr_at: step must be an integer of at least 0"):
        schedule.lr_at(-1)
    with pytest.raises(ArgumentError, match=mentions("ExponentialLR(gamma=", "step 1000 exceeds")):
        schedule.lr_at(1000)
    schedule.step()
    with pytest.raises(ArgumentError, match=mentions("LinearWarmup", "at step 0", "ExponentialLR(gamma")):
        optim.LinearWarmup(optimizer, 3, schedule)
    cosine = optim.CosineAnnealingLR(optimizer, T_max=np.int64(90), eta_min=0)
    assert repr(optim.LinearWarmup(optimizer, 10, cosine, 0.5)) == (
        "LinearWarmup(steps=10, then=CosineAnnealingLR(T_max=90, eta_min=0.0), start_factor=0.5)"
    )


@pytest.mark.parametrize(("name", "value"), [("step", None), ("step", -1), ("base_lr", "x")])
def test_damaged_state_of_what_follows_a_warmup(name: str, value: Any) -> None:
    schedule = MADE["warm step"](sgd())
    state = schedule.state_dict()
    state["step"] = 2
    state["then"][name] = value
    if value is None:
        del state["then"][name]
    with pytest.raises(StateDictError, match=mentions("not the state of a schedule", name)):
        schedule.load_state_dict(state)
    assert schedule.last_step == 0
