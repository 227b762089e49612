"""The compute rail: whether a run would take more FLOPs than the menu allows, against a run of its defaults."""

from collections.abc import Mapping

from rails.fit import Limits, budget_steps
from rails.menu import Menu
from rails.predict import Shape
from rails.values import Value, shown

# What a run's FLOPs grow with, by whether the budget pays for tokens or for steps of them.
PER_TOKEN = ("n_layer", "d_model", "d_ff", "seq_len")
PER_STEP = ("batch_size", "grad_accumulation")


def compute_fault(recipe: Mapping[str, Value], menu: Menu, limits: Limits) -> str | None:
    """None when a run takes at most the menu's max_compute_ratio times the FLOPs of a run of its defaults, else by how
    much more it would take. Also None as long as it cannot be known: see `compute_ratio`."""
    if menu.max_compute_ratio is None:
        return None
    baseline = menu.defaults()
    ratio = compute_ratio(recipe, baseline, limits)
    if ratio is None or ratio <= menu.max_compute_ratio:
        return None
    knobs = PER_TOKEN + PER_STEP if limits.budget and "steps" in limits.budget else PER_TOKEN
    grown = [name for name in knobs if _number(recipe.get(name)) > _number(baseline.get(name))]
    named = [f"{name} ({shown(recipe[name])}; the baseline has {shown(baseline.get(name))})" for name in grown]
    lower = " or ".join(named or [name for name in knobs if name in recipe])
    return (
        f"a run would take {_times(ratio, menu.max_compute_ratio)} times the baseline's FLOPs; the menu's "
        f"max_compute_ratio is {menu.max_compute_ratio:g}: lower {lower}"
    )


def compute_ratio(recipe: Mapping[str, Value], baseline: Mapping[str, Value], limits: Limits) -> float | None:
    """FLOPs of a run of the recipe over those of a run of the baseline, each for the whole steps that the budget buys.

    Under a budget in tokens what rounding to whole steps leaves the baseline short of counts as read. 1 under a budget
    in flops, whatever part of a step is left over. None without a budget and for one in seconds (a clock decides what a
    run takes), where a recipe lacks the GPT's knobs or the vocabulary's size is not known, and where the budget buys
    the baseline no step.
    """
    if limits.budget is None or "seconds" in limits.budget:
        return None
    shape, start = limits.shape(recipe), limits.shape(baseline)
    if shape is None or start is None:
        return None
    if "flops" in limits.budget:
        return 1.0
    tokens, of_baseline = _tokens(recipe, shape, limits), _tokens(baseline, start, limits)
    if not of_baseline:
        return None
    if "tokens" in limits.budget:
        of_baseline = max(of_baseline, tokens)
    return tokens * shape.flops_per_token / (of_baseline * start.flops_per_token)


def _tokens(recipe: Mapping[str, Value], shape: Shape, limits: Limits) -> int:
    return (budget_steps(recipe, limits) or 0) * shape.tokens_per_step


def _number(value: Value | None) -> float:
    return value if isinstance(value, int | float) else 0.0


def _times(ratio: float, most: float) -> str:
    """With as many digits as it takes to tell it from the most."""
    return next((text for digits in (3, 4, 6, 9) if float(text := f"{ratio:.{digits}g}") > most), f"{ratio:g}")
