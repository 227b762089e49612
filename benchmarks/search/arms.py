"""What is raced: a new arm is one line here, or one file beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autoresearch.proposers import Proposer
from autoresearch.proposers.bayes import BayesProposer
from autoresearch.proposers.classic import RandomProposer
from autoresearch.proposers.space import Space
from autoresearch.proposers.tpe import TpeProposer

from .gaussian import gaussian_process
from .night import Standing, World, simulate
from .solo import Search, at_random, cma_es, joint_tpe, racing, search, tpe

WORKERS = (1, 2, 16)


@dataclass(frozen=True)
class Arm:
    """One way to spend a night's runs."""

    name: str
    night: Callable[[World, Space, int, int], list[Standing]]  # world, space, night, runs
    in_loop: bool  # through the study loop, so that its code counts too
    is_drawn: bool = True


def _alone(name: str, method: Search) -> Arm:
    return Arm(name, lambda world, space, night, runs: search(method, space, world, night, runs), in_loop=False)


def _in_loop(name: str, proposer: Callable[[], Proposer], workers: int) -> Arm:
    full_name = f"loop, {name}, {workers} {'worker' if workers == 1 else 'workers'}"
    return Arm(
        full_name,
        lambda world, _, night, runs: simulate(world, proposer(), night, runs, workers),
        in_loop=True,
        is_drawn=workers == 1,
    )


REFERENCE, DEFAULT = "TPE", "loop, GP, 1 worker"
FINALISTS = (REFERENCE, "GP", DEFAULT)  # raced with real trainings too
ARMS = {
    arm.name: arm
    for arm in (
        _alone("random", at_random),
        _alone(REFERENCE, joint_tpe),
        _alone("TPE, each knob by itself", tpe),
        _alone("CMA-ES", cma_es),
        _alone("GP", gaussian_process),
        _alone("racing", racing),
        *(_in_loop("random", RandomProposer, workers) for workers in WORKERS),
        *(_in_loop("TPE", TpeProposer, workers) for workers in WORKERS),
        *(_in_loop("GP", BayesProposer, workers) for workers in WORKERS),
    )
}
