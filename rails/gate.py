"""The gate: eight rails in order between untrusted text and the recipe; the first that blocks wins."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from rails.compute import compute_fault
from rails.fit import Limits, budget_steps, fit_fault
from rails.menu import Menu
from rails.patch import diff_fault, unified_diff
from rails.proposal import Proposal, read_proposal
from rails.recipe import recipe_key
from rails.values import RailsError, Value, clean, nearest, presentable, shown

RAILS = ("schema", "menu", "range", "cross", "diff", "novelty", "compute", "fit")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's answer to one proposal.

    passed: whether every rail let it through. rail: the one that blocked; None when passed. reason: what was wrong and
    what is allowed. changes: each knob's new value in the knob's own type; for a blocked proposal what was read of it.
    hypothesis: the proposal's reason, safe to show. expected_delta: the change of val_bpb that the proposer expects, in
    bits per byte, negative is better; None when absent or no number.
    """

    passed: bool
    rail: str | None
    reason: str
    changes: dict[str, Value]
    hypothesis: str
    expected_delta: float | None

    def to_json(self) -> str:
        """The verdict as one line of strict JSON."""
        return json.dumps(asdict(self), allow_nan=False)


def gate(
    raw: str | bytes,
    recipe: Mapping[str, Value],
    menu: Menu,
    tried: Mapping[str, str] | tuple[()] = (),
    limits: Limits | None = None,
    *,
    diff: Callable[[dict[str, Value]], str] | None = None,
) -> Verdict:
    """Judge one raw proposal against the recipe that stands. Never raises for anything that `raw` may hold.

    tried: recipe_key -> a phrase on what came of that recipe, such as "trial 7 (discard, val_bpb 2.81)".
    diff: the unified diff that git will commit for a candidate recipe; by default one between canonical recipes.
    What it raises is passed on: git out of order is no fault of the proposal.
    """
    proposal = read_proposal(raw, menu.max_changes)
    changes = {clean(name, 64): presentable(value) for name, value in proposal.changes.items()}

    def blocked(rail: str, reason: str) -> Verdict:
        return Verdict(False, rail, reason, changes, proposal.hypothesis, proposal.expected_delta)

    if proposal.fault is not None:
        return blocked("schema", proposal.fault)
    if (fault := _menu_fault(proposal, menu)) is not None:
        return blocked("menu", fault)
    try:
        changes = {name: menu.knobs[name].admit(value) for name, value in proposal.changes.items()}
    except RailsError as error:
        return blocked("range", str(error))
    if standing := [name for name, value in changes.items() if recipe.get(name) == value]:
        return blocked("range", f"{standing[0]} = {shown(changes[standing[0]])} already stands; propose another value")
    candidate: dict[str, Value] = {**recipe, **changes}
    if broken := violations(candidate, menu, limits):
        return blocked("cross", "; ".join(broken))
    patch = unified_diff(recipe, candidate) if diff is None else diff(dict(candidate))
    if (fault := diff_fault(patch, recipe, changes)) is not None:
        return blocked("diff", fault)
    if tried and (outcome := tried.get(recipe_key(candidate))) is not None:
        return blocked("novelty", f"this recipe was already tried: {clean(outcome)}; propose one that is new")
    if limits is not None and (fault := compute_fault(candidate, menu, limits)) is not None:
        return blocked("compute", fault)
    if limits is not None and (fault := fit_fault(candidate, limits)) is not None:
        return blocked("fit", fault)
    return Verdict(True, None, "passed all rails", changes, proposal.hypothesis, proposal.expected_delta)


def violations(recipe: Mapping[str, Value], menu: Menu, limits: Limits | None = None) -> list[str]:
    """Each of the menu's constraints that a full recipe breaks, in words; one that cannot be judged counts as broken.

    A constraint on budget_steps is passed over only while a budget in seconds has no measured speed behind it.
    """
    broken = []
    for constraint in menu.constraints:
        values = dict(recipe)
        try:
            if "budget_steps" in constraint.names:
                if limits is None or limits.budget is None:
                    raise RailsError("budget_steps is not known: pass the study's budget (check: --study study.toml)")
                if (steps := budget_steps(recipe, limits)) is None:
                    continue
                values["budget_steps"] = steps
            if constraint.holds(values):
                continue
            read = ", ".join(f"{name} = {shown(values[name])}" for name in sorted(constraint.names))
            doc = f" ({constraint.doc})" if constraint.doc else ""
            broken.append(f"`{constraint.expr}`{doc} does not hold with {read}")
        except RailsError as error:
            broken.append(f"`{constraint.expr}` cannot be judged: {error}")
    return broken


def _menu_fault(proposal: Proposal, menu: Menu) -> str | None:
    for name in proposal.changes:
        if name not in menu.knobs:
            names = list(menu.knobs)
            return f"{shown(name)} is no knob of the menu{nearest(name, names)} (knobs: {', '.join(names)})"
    return None
