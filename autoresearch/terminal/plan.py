"""The plan of a full pretrain, as a person reads it in the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table as Listing
from rich.text import Text

from autoresearch import words
from rails import clean


def plan_view(plan: dict[str, Any]) -> RenderableType:
    """The plan for a person, with every assumption and where it is from."""
    facts, assumptions = Listing.grid(padding=(0, 2)), Listing(box=None, pad_edge=False, header_style="dim")
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    recipe, gpus = plan["recipe"], plan["gpus"]
    rent = words.money(plan["rent"], plan["rent_currency"]) if plan["rent"] is not None else "none"
    for name, value in {
        "recipe": f"trial {recipe['trial']} ({recipe['label']}): {recipe['why']}",
        "model": f"{plan['params'] / 1e6:,.1f} million parameters",
        "training": f"{words.figure(plan['tokens'] / 1e9)} billion tokens, {words.flops(plan['flops'])}",
        "hardware": f"{gpus} x {plan['hardware']['name']}",
        "time": f"{words.figure(plan['gpu_hours'])} GPU-hours, {words.figure(plan['days'])} days on {gpus} of them",
        "energy": f"{words.figure(plan['kwh'])} kWh",
        "money": f"rent {rent}; electricity, where the machine is yours, "
        f"{words.money(plan['electricity'], plan['electricity_currency'])}",
    }.items():
        facts.add_row(name, escape(clean(value, 600)))
    for column in ("assumption", "value", "source"):
        assumptions.add_column(column)
    for row in plan["assumptions"]:
        assumptions.add_row(*(escape(clean(row[key], 300)) for key in ("what", "value", "source")))
    return Group(facts, Text(), *(Text(clean(line, 900)) for line in _blind_lines(plan)), Text(), assumptions)


def _blind_lines(plan: dict[str, Any]) -> list[str]:
    blind = plan["booking_blind"]
    if blind is None:
        return ["Booking blind: nothing but the baseline is measured, so there is nothing to book."]
    loss, price = words.money(blind["loss"], blind["currency"]), words.money(plan["price"], plan["currency"])
    cost = "not known (no energy is written down)"
    if blind["search_cost"] is not None:
        tokens, currency = blind.get("search_token_cost"), blind["search_currency"]
        energy = blind["search_cost"] if tokens is None else blind["search_energy_cost"]
        cost = words.costs(energy, tokens, currency) + (" of electricity" if tokens is None else "")
    ratio = ""
    if blind["ratio"] is not None:
        ratio = f": the loss is {words.figure(blind['ratio'])} times the cost"
    elif blind["currency"] != blind["search_currency"]:
        ratio = "; give study.toml and the hardware file one currency to compare the two"
    return [
        f"Booking blind, on the best single number: trial {blind['trial']} ({blind['label']}), val_bpb "
        f"{words.bpb(blind['val_bpb'])} in one run. P(no better than the baseline) is {blind['p_wrong']:.2g} "
        f"(from: {blind['evidence']}). Expected loss: {blind['p_wrong']:.2g} x {price} ({plan['price_is']}) = {loss}. "
        f"This search, its promotions included, cost {cost}{ratio}.",
        f"Left out of it: {blind['left_out']}.",
    ]
