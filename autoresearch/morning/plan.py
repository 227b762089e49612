"""`autoresearch plan`: what a full pretrain of a study's survivor takes in tokens, GPU-hours, kWh and money."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import Field, ValidationError

from autoresearch import words
from autoresearch.config import Table
from autoresearch.cost import cost
from autoresearch.decide import compare
from autoresearch.errors import UserError
from autoresearch.evidence import Evidence
from autoresearch.evidence.longer_runs import LongerRuns, longer_runs, recipe_label, survivor, was_measured
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import Trial
from rails import clean
from rails.predict import Shape
from rails.values import nearest

HARDWARE_FILE = Path(__file__).parents[1] / "hardware.toml"
TOKENS_PER_PARAMETER = 20.0
MOST_TOKENS = 1e16
SECONDS_PER_HOUR = 3600.0

LEFT_OUT = (
    "that it was picked because its number was the lowest, which makes P(wrong) too small; "
    "that a run which is no better than the baseline still gives a model as good as the baseline's; "
    "what the gain is worth if it is real; the machine, its wear and the time that the search took; "
    "and whether the gain lasts beyond the budgets that were tried"
)


class Hardware(Table):
    """One machine of the table, per GPU: FLOP/s, watts, money per hour. rent_per_hour None: nobody rents it out."""

    name: str = Field(min_length=1)
    peak_flops: float = Field(gt=0)
    utilisation: float = Field(gt=0, le=1)
    watts: float = Field(gt=0)
    pue: float = Field(ge=1)
    rent_per_hour: float | None = Field(None, ge=0)
    currency: str = Field("EUR", min_length=1, max_length=8)
    source: str = Field(min_length=1)


def load_hardware(path: Path | None = None) -> dict[str, Hardware]:
    """The machines of a file, by default the one that comes with this package.

    Raises UserError naming the file, the machine and the key.
    """
    path = path or HARDWARE_FILE
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"the hardware file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    found = {}
    for key, table in content.items():
        try:
            found[key] = Hardware.model_validate(table)
        except ValidationError as error:
            raise UserError(f"{path}, [{clean(key, 60)}]: {_problem(error)}") from None
    if not found:
        raise UserError(f"{path} has no machine in it: add a table, as in {HARDWARE_FILE}")
    return found


def _problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = clean(".".join(str(part) for part in problem["loc"]), 60)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}{nearest(key, list(Hardware.model_fields))}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    return f"{key}: {problem['msg']}" if key else "it must be a table of figures"


def make_plan(
    folder: StudyFolder,
    hardware: str,
    *,
    tokens: float | None = None,
    gpus: int = 1,
    owned: bool = False,
    table: Path | None = None,
) -> dict[str, Any]:
    """The plan as plain data, in base units and in the currencies of study.toml and of the hardware file.

    hardware: a key of the table. tokens: to train on; None means 20 a parameter. owned: the price of the run is its
    electricity and not the rent. table: another hardware file. Raises UserError for input that means nothing.
    """
    if folder.settings.trainer:
        raise UserError(f"study {folder.name} is over a program of its own: a plan counts the FLOPs of our GPT only")
    machines = load_hardware(table)
    if hardware not in machines:
        name = clean(hardware, 60)
        raise UserError(f"there is no hardware {name!r}{nearest(name, list(machines))} Known: {', '.join(machines)}")
    if gpus < 1:
        raise UserError(f"--gpus {gpus}: it must be 1 or more")
    if tokens is not None and not 1 <= tokens <= MOST_TOKENS:
        raise UserError(f"--tokens {tokens:g}: it must be a number from 1 to {MOST_TOKENS:g}")
    machine, evidence, promotions = machines[hardware], Evidence(folder), longer_runs(folder)
    trial, why = _recipe(evidence, promotions)
    shape = Shape.of(trial.recipe, folder.vocab_size, "cuda")
    if shape is None:
        raise UserError(f"the recipe of trial {trial.number} lacks a size of the GPT: its FLOPs cannot be counted")

    utilisation, utilisation_source = _utilisation(evidence, trial, machine)
    trained_on = tokens if tokens is not None else TOKENS_PER_PARAMETER * shape.params
    flops = shape.flops_per_token * trained_on
    gpu_hours = flops / (machine.peak_flops * utilisation) / SECONDS_PER_HOUR
    kwh = machine.watts / 1000 * gpu_hours * machine.pue
    energy = folder.settings.energy
    electricity = kwh * energy.price_per_kwh
    rent = None if machine.rent_per_hour is None else gpu_hours * machine.rent_per_hour
    rented = rent is not None and not owned
    price, currency = (rent, machine.currency) if rented else (electricity, energy.currency)
    assert price is not None
    return {
        "study": folder.name,
        "recipe": {
            "trial": trial.number,
            "label": recipe_label(trial.recipe, evidence.baseline.recipe),
            "why": why,
            "values": trial.recipe,
        },
        "hardware": {"key": hardware, **machine.model_dump()},
        "params": shape.params,
        "tokens": trained_on,
        "flops_per_token": shape.flops_per_token,
        "flops": flops,
        "gpus": gpus,
        "utilisation": utilisation,
        "gpu_hours": gpu_hours,
        "days": gpu_hours / gpus / 24,
        "kwh": kwh,
        "rent": rent,
        "rent_currency": machine.currency,
        "electricity": electricity,
        "electricity_currency": energy.currency,
        "price": price,
        "currency": currency,
        "price_is": "rent" if rented else "electricity",
        "booking_blind": booking_blind(evidence, promotions, price, currency),
        "assumptions": [
            _assumption("tokens", f"{trained_on:.3g}", _tokens_source(tokens)),
            _assumption(
                "FLOPs a token",
                f"{shape.flops_per_token:.4g}",
                "6 x weights that multiply + 12 x n_layer x d_model x seq_len (PaLM, 2022, appendix B)",
            ),
            _assumption("peak of a GPU", f"{machine.peak_flops / 1e12:g} TFLOP/s in bf16", machine.source),
            _assumption("utilisation", f"{utilisation:.2f} of the peak", utilisation_source),
            _assumption("GPUs", str(gpus), "n GPUs taken to be n times as fast as one; nothing lost to restarts"),
            _assumption("power", f"{machine.watts:g} W a GPU, the rest of the machine included", machine.source),
            _assumption("PUE", f"{machine.pue:g}", machine.source),
            _assumption("rent", _rent_text(machine), f"{machine.source}; it includes the electricity"),
            _assumption("electricity", f"{energy.price_per_kwh:g} {energy.currency}/kWh", "study.toml, [energy]"),
            _assumption("memory and text", "enough of both", "not checked"),
        ],
    }  # fmt: skip


def _recipe(evidence: Evidence, promotions: Sequence[LongerRuns]) -> tuple[Trial, str]:
    """Whose full pretrain is planned, and why: the longest promotion's survivor, else the incumbent."""
    measured = [found for found in promotions if was_measured(found)]
    if not measured:
        untested = "; no promotion has tested it at a longer budget yet"
        if evidence.incumbent is evidence.baseline:
            return evidence.baseline, f"the baseline: the search has kept nothing{untested}"
        return evidence.incumbent, f"the incumbent of the search{untested}"
    longest = f"the promotion at {measured[-1].factor:g} times the budget"
    row = survivor(measured[-1])
    if row is None:
        return evidence.baseline, f"the baseline: no recipe beat it in {longest}"
    gain = f"{row.for_longer(evidence.metric)} {evidence.metric.gain_unit}"
    gained = f"better than the baseline by {gain} over {words.count(row.n_runs, 'run')}"
    return evidence.trials[row.trial], f"the survivor of {longest} ({row.verdict}): {gained}"


def _utilisation(evidence: Evidence, trial: Trial, machine: Hardware) -> tuple[float, str]:
    """The share of the bf16 peak: this study's own where it ran the recipe in bf16 on a GPU, else the table's."""
    runs = evidence.runs[trial.number] if trial.recipe.get("precision", "bf16") == "bf16" else []
    shares = [run.mfu for run in runs if run.mfu is not None and (run.device or "").startswith("cuda")]
    if not shares:
        return machine.utilisation, f"assumed by the hardware file for {machine.name}"
    return median(shares), f"measured: median MFU of {words.count(len(shares), 'run')} of it on this study's GPU"


def booking_blind(
    evidence: Evidence, promotions: Sequence[LongerRuns], price: float, currency: str
) -> dict[str, Any] | None:
    """What it costs on average to book the full run for the best single number of the search, promoting nothing.

        expected loss = P(wrong) x price of the full run
        search cost   = (joules of all runs of the study + joules of all promotions) / 3.6e6 x price per kWh
                        + tokens of a language model x their price
        ratio         = expected loss / search cost

    The recipe is the one, other than the baseline's, with the lowest val_bpb of any one run. P(wrong) is the posterior
    probability that it is not better than the baseline (decide.compare): from the longest promotion that measured it,
    else from all runs of both in the search; 1 if it diverged in that promotion. None if nothing was measured; the
    ratio is None where the search's cost is not known or the two are in different currencies.
    """
    reference = evidence.scores.get(evidence.baseline.recipe_key)
    best = evidence.best_run(without=evidence.baseline.recipe_key)
    if not reference or not best:
        return None
    trial = best.trial
    right = compare(evidence.scores[trial.recipe_key], reference, evidence.noise).probability
    from_what = f"its {evidence.n_runs(trial)} and the baseline's {words.count(len(reference), 'run')} of the search"
    for found in promotions:
        row = next((row for row in found.rows if row.trial == trial.number), None)
        if row and row.diverged:
            right, from_what = 0.0, f"it diverged in the promotion at {found.factor:g} times the budget"
        elif row and row.long_probability is not None:
            right = row.long_probability
            from_what = f"{words.count(row.n_runs, 'run')} in the promotion at {found.factor:g} times the budget"
    settings = evidence.folder.settings
    joules = (evidence.joules or 0.0) + sum(found.energy_joules for found in promotions)
    spent = cost(settings, joules or None, *evidence.tokens)
    loss = (1 - right) * price
    return {
        "trial": trial.number,
        "label": recipe_label(trial.recipe, evidence.baseline.recipe),
        "val_bpb": best.val_bpb,
        "p_wrong": 1 - right,
        "evidence": from_what,
        "loss": loss,
        "currency": currency,
        "search_cost": spent.total,
        **({"search_energy_cost": spent.energy, "search_token_cost": spent.tokens} if spent.tokens is not None else {}),
        "search_currency": settings.energy.currency,
        "search_joules": joules,
        "ratio": loss / spent.total if spent.total and currency == settings.energy.currency else None,
        "left_out": LEFT_OUT,
    }


def _tokens_source(asked: float | None) -> str:
    if asked is not None:
        return "as asked"
    return f"{TOKENS_PER_PARAMETER:g} a parameter, compute-optimal by Hoffmann et al., 2022 (arXiv:2203.15556)"


def _rent_text(machine: Hardware) -> str:
    if machine.rent_per_hour is None:
        return "none: it is owned"
    return f"{machine.rent_per_hour:g} {machine.currency} a GPU-hour"


def _assumption(what: str, value: str, source: str) -> dict[str, str]:
    return {"what": what, "value": value, "source": source}
