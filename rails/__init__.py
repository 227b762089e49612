"""The gate between untrusted text and the training recipe: pure functions, standard library only, deny by default."""

from rails.expression import Constraint
from rails.fit import Limits, Measurement, Prediction, budget_steps, predict
from rails.gate import RAILS, Verdict, gate, violations
from rails.menu import Knob, Menu, load_menu
from rails.recipe import parse_recipe, recipe_key, render_recipe
from rails.values import RailsError, Value, clean

__all__ = [
    "RAILS",
    "Constraint",
    "Knob",
    "Limits",
    "Measurement",
    "Menu",
    "Prediction",
    "RailsError",
    "Value",
    "Verdict",
    "budget_steps",
    "clean",
    "gate",
    "load_menu",
    "parse_recipe",
    "predict",
    "recipe_key",
    "render_recipe",
    "violations",
]
