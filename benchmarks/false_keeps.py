"""How often the decision keeps what is not better, and finds what is: python benchmarks/false_keeps.py [--trials N].

Simulates whole studies with the shipped decision code: a baseline of three seeds, then candidates judged one by one
against the incumbent of the moment, which gets its own replicates when a candidate is promising, exactly as the
study loop asks for them. Unit: one run-to-run deviation, 0.7 % of val_bpb.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from autoresearch.config import DecisionRule
from autoresearch.decide import decide, pool_noise

LEVEL = 2.8
DEVIATION = 0.007 * LEVEL


@dataclass
class Tally:
    trials: int = 0
    kept: int = 0
    candidate_runs: int = 0
    reference_runs: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self

    def line(self, label: str) -> str:
        rate = self.kept / self.trials
        half = 1.96 * (rate * (1 - rate) / self.trials) ** 0.5
        own, all_runs = self.candidate_runs / self.trials, (self.candidate_runs + self.reference_runs) / self.trials
        return (
            f"{label:<44} kept {100 * rate:6.2f} % ± {100 * half:.2f}   runs a trial {own:.2f}"
            f"   with the incumbent's own {all_runs:.2f}"
        )


def study(rng: np.random.Generator, trials: int, gain: float, correlation: float, rule: DecisionRule) -> Tally:
    """One study; every candidate's true value is `gain` deviations better than its incumbent's."""
    tally = Tally()
    seed_effects: dict[int, float] = {}

    def run(runs: dict[int, float], true_value: float) -> None:
        seed = len(runs)
        shared = seed_effects.setdefault(seed, float(rng.normal()))
        luck = correlation**0.5 * shared + (1 - correlation) ** 0.5 * float(rng.normal())
        runs[seed] = true_value + DEVIATION * luck

    incumbent_value, incumbent = LEVEL, dict[int, float]()
    for _ in range(rule.baseline_runs):
        run(incumbent, incumbent_value)
    groups = [incumbent]
    for _ in range(trials):
        tally.trials += 1
        value, candidate = incumbent_value - gain * DEVIATION, dict[int, float]()
        groups.append(candidate)
        run(candidate, value)
        while (decision := decide(candidate, incumbent, pool_noise(groups, rule), rule)).action == "replicate":
            for _ in range(decision.reference_runs):
                run(incumbent, incumbent_value)
            tally.reference_runs += decision.reference_runs
            for _ in range(decision.candidate_runs):
                run(candidate, value)
        tally.candidate_runs += len(candidate)
        if decision.action == "keep":
            tally.kept += 1
            incumbent, incumbent_value = candidate, value
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20_000, help="simulated trials for each line")
    parser.add_argument("--length", type=int, default=100, help="trials in one study; 1 judges each on its own")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cases = [
        ("identical recipes", 0.0, 0.0, 1.0),
        ("identical, same-seed correlation 0.5", 0.0, 0.5, 1.0),
        ("identical, true deviation twice the prior", 0.0, 0.0, 0.5),
        ("identical, true deviation half the prior", 0.0, 0.0, 2.0),
        ("better by 1 deviation", 1.0, 0.0, 1.0),
        ("better by 2 deviations", 2.0, 0.0, 1.0),
        ("better by 2, same-seed correlation 0.5", 2.0, 0.5, 1.0),
        ("worse by 1 deviation", -1.0, 0.0, 1.0),
    ]
    for label, gain, correlation, prior_factor in cases:
        rng = np.random.Generator(np.random.PCG64(arguments.seed))
        rule = DecisionRule(prior_deviation=0.007 * prior_factor)
        tally = Tally()
        while tally.trials < arguments.trials:
            tally += study(rng, min(arguments.length, arguments.trials - tally.trials), gain, correlation, rule)
        print(tally.line(label), flush=True)


if __name__ == "__main__":
    main()
