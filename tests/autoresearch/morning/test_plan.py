"""The plan of a full pretrain: its figures by hand, its assumptions in words, and what booking blind costs."""

from __future__ import annotations

import ast
import io
import json
import sqlite3
import tomllib
from pathlib import Path

import pytest
from rich.console import Console
from studies import GOOD, MACHINE, change, make_study, run_study
from studies import write_promoted as write

from autoresearch.decide import compare
from autoresearch.errors import UserError
from autoresearch.evidence import Evidence
from autoresearch.morning.plan import HARDWARE_FILE, load_hardware, make_plan
from autoresearch.study.folder import StudyFolder, create_study
from autoresearch.terminal.plan import plan_view

EDITED = """
[mine]
name = "My machine"
peak_flops = 1e14
utilisation = 0.5
watts = 1000
pue = 1.5
rent_per_hour = 2.0
source = "my own bill, November 2026"
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "hardware.toml"
    path.write_text(EDITED)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """Trial 1 is kept (lr); trial 2 is not replicated."""
    found = make_study(tmp_path, decision__reference_runs=3, decision__reference_max=3, decision__max_runs=3)
    run_study(found, [change("lr", GOOD), change("d_model", 64)])
    assert found.store.study()["incumbent"] == 1
    return found


def edit(folder: StudyFolder, sql: str) -> None:
    with sqlite3.connect(folder.path / "study.db") as database:
        database.execute(sql)


def shown(plan: dict) -> str:
    console = Console(width=250, file=io.StringIO(), highlight=False)
    console.print(plan_view(plan))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_gpt_354m_recipe_takes_7_billion_tokens_and_12_hours_of_an_h100(tmp_path: Path) -> None:
    plan = make_plan(create_study(tmp_path, "big", "gpt-354m", MACHINE, {}), "h100-sxm", gpus=8)
    # 24 layers, 1024 wide, 4096 in the feed-forward layer, 50,257 words, 1024 positions; biasless, tied, LayerNorm.
    block = 4 * 1024 * 1024 + 2 * 1024 * 4096
    norms = (2 * 24 + 1) * 2 * 1024
    params = 24 * block + norms + 50_257 * 1024 + 1024 * 1024
    assert plan["params"] == params == 354_601_984
    assert plan["tokens"] == 20 * params == 7_092_039_680
    per_token = 6 * (24 * block + 50_257 * 1024) + 12 * 24 * 1024 * 1024
    assert plan["flops"] == pytest.approx(per_token * 7_092_039_680)
    hours = per_token * 7_092_039_680 / (989.5e12 * 0.40) / 3600
    assert plan["gpu_hours"] == pytest.approx(hours) and hours == pytest.approx(12.06, abs=0.01)
    assert plan["days"] == pytest.approx(hours / 8 / 24)
    assert plan["kwh"] == pytest.approx(1.275 * hours * 1.3)
    assert plan["rent"] == pytest.approx(2.70 * hours)
    assert plan["booking_blind"] is None
    assert "354.6 million parameters" in shown(plan) and "7.09 billion tokens" in shown(plan)


def test_an_edited_table_replaces_the_one_that_comes_along(folder: StudyFolder, table: Path) -> None:
    plan = make_plan(folder, "mine", tokens=1e9, table=table)
    flops = plan["flops_per_token"] * 1e9
    hours = flops / 5e13 / 3600
    assert plan["gpu_hours"] == pytest.approx(hours)
    assert plan["kwh"] == pytest.approx(1.0 * hours * 1.5)
    assert (plan["rent"], plan["electricity"]) == (pytest.approx(2 * hours), pytest.approx(1.5 * hours * 0.30))
    assert (plan["price"], plan["price_is"]) == (plan["rent"], "rent")
    owned = make_plan(folder, "mine", tokens=1e9, table=table, owned=True)
    assert (owned["price"], owned["price_is"]) == (plan["electricity"], "electricity")
    with pytest.raises(UserError, match="no hardware 'h100-sxm'"):
        make_plan(folder, "h100-sxm", table=table)


def test_a_machine_that_nobody_rents_out_costs_its_electricity(folder: StudyFolder) -> None:
    plan = make_plan(folder, "dgx-spark")
    assert plan["rent"] is None and plan["price"] == plan["electricity"] == pytest.approx(plan["kwh"] * 0.30)
    assert "rent none" in shown(plan)


def test_every_assumption_is_printed_with_its_source(folder: StudyFolder) -> None:
    plan = make_plan(folder, "h100-sxm")
    text = " ".join(shown(plan).split())
    for part in (
        "Hoffmann et al., 2022",
        "989.5 TFLOP/s in bf16",
        "H100 datasheet",
        "0.40 of the peak",
        "1275 W a GPU",
    ):
        assert part in text
    for part in ("assumed by the hardware file", "2.7 EUR a GPU-hour", "rent: example", "0.3 EUR/kWh", "not checked"):
        assert part in text
    assert "as asked" in " ".join(shown(make_plan(folder, "h100-sxm", tokens=1e9)).split())
    json.dumps(plan, allow_nan=False)


def test_a_utilisation_that_the_study_measured_on_a_gpu_is_used_and_said(folder: StudyFolder) -> None:
    edit(folder, "UPDATE runs SET mfu = 0.9")  # of a CPU: it says nothing of a GPU
    assert make_plan(folder, "h100-sxm")["utilisation"] == 0.40
    edit(folder, "UPDATE runs SET mfu = 0.25 + 0.01 * seed, device = 'cuda:0' WHERE trial = 1 AND seed < 3")
    edit(folder, "UPDATE runs SET mfu = 0.11, device = 'cuda:0' WHERE trial != 1")
    plan = make_plan(folder, "h100-sxm")
    assert plan["utilisation"] == pytest.approx(0.265)
    assert "measured: median MFU of 2 runs of it on this study's GPU" in " ".join(shown(plan).split())


def test_the_plan_is_for_the_survivor_of_the_longest_promotion_and_says_why(folder: StudyFolder) -> None:
    def planned() -> tuple[int, str]:
        recipe = make_plan(folder, "b200")["recipe"]
        return recipe["trial"], recipe["why"]

    assert planned() == (1, "the incumbent of the search; no promotion has tested it at a longer budget yet")
    write(folder.store, 0, {1000: 2.8, 1001: 2.8}, 4.0)
    write(folder.store, 1, {1000: 2.5, 1001: 2.5}, 4.0)
    write(folder.store, 2, {1000: 2.6, 1001: 2.6}, 4.0)
    number, why = planned()
    assert number == 1 and why.startswith("the survivor of the promotion at 4 times the budget (held): better than")
    write(folder.store, 0, {1000: 2.8, 1001: 2.8}, 16.0)
    write(folder.store, 1, {1000: 2.8, 1001: 2.8}, 16.0)
    assert planned() == (0, "the baseline: no recipe beat it in the promotion at 16 times the budget")
    write(folder.store, 0, {1000: 2.8}, 64.0)  # cut off before any other recipe was run: it says nothing
    assert planned()[1].endswith("16 times the budget")


def test_booking_blind_loses_the_chance_of_being_wrong_times_the_price(folder: StudyFolder, table: Path) -> None:
    plan = make_plan(folder, "mine", tokens=1e12, table=table)
    blind, evidence = plan["booking_blind"], Evidence(folder)
    assert (blind["trial"], blind["label"]) == (1, "lr 0.001 -> 0.004")
    lowest = min(run.val_bpb for number in (1, 2) for run in folder.store.runs(number) if run.val_bpb is not None)
    assert blind["val_bpb"] == lowest
    chance = compare(folder.store.scores()[1], folder.store.scores()[0], evidence.noise).probability
    assert blind["p_wrong"] == pytest.approx(1 - chance)
    cost = sum(run.energy_joules or 0 for run in folder.store.runs()) / 3_600_000 * 0.30
    assert blind["loss"] == pytest.approx((1 - chance) * plan["gpu_hours"] * 2.0)
    assert blind["search_cost"] == pytest.approx(cost)
    assert blind["ratio"] == pytest.approx(blind["loss"] / cost)
    text = " ".join(shown(plan).split())
    assert "Booking blind, on the best single number: trial 1" in text and "Left out of it: that it was picked" in text


def test_a_promotion_tells_more_of_a_blind_booking_than_the_search(folder: StudyFolder, table: Path) -> None:
    before = make_plan(folder, "mine", table=table)["booking_blind"]
    write(folder.store, 0, {1000: 2.8, 1001: 2.8})
    write(folder.store, 1, {1000: 2.8, 1001: 2.8})
    blind = make_plan(folder, "mine", table=table)["booking_blind"]
    assert blind["p_wrong"] == pytest.approx(0.5) and before["p_wrong"] < 0.01
    assert blind["evidence"] == "2 runs in the promotion at 8 times the budget"
    assert blind["search_joules"] == pytest.approx(before["search_joules"] + 4 * 2.0)  # of the promotion's four runs
    write(folder.store, 1, {1002: "diverged"})
    assert make_plan(folder, "mine", table=table)["booking_blind"]["p_wrong"] == 1.0


def test_money_in_two_currencies_is_not_divided(folder: StudyFolder, table: Path) -> None:
    table.write_text(EDITED + 'currency = "USD"\n')
    plan = make_plan(folder, "mine", table=table)
    assert plan["booking_blind"]["ratio"] is None
    assert "give study.toml and the hardware file one currency" in shown(plan)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("watts = 1000", "", r"\[mine\]: watts is missing"),
        ("watts = 1000", "wats = 1000", "watts is missing|unknown key wats"),
        ("pue = 1.5", "pue = 1.5\nprice = 3", 'unknown key price; did you mean "'),
        ("utilisation = 0.5", "utilisation = 50", "utilisation: .*less than or equal to 1"),
        ("peak_flops = 1e14", "peak_flops = inf", "peak_flops: .*finite"),
        ("[mine]", "mine = 3\n[other]", r"\[mine\]: it must be a table"),
        (EDITED, "", "has no machine in it"),
        ("[mine]", "[mine", "not valid TOML"),
    ],
)
def test_a_broken_table_is_named_with_its_machine_and_key(table: Path, old: str, new: str, problem: str) -> None:
    table.write_text(EDITED.replace(old, new))
    with pytest.raises(UserError, match=problem) as caught:
        load_hardware(table)
    assert str(table) in str(caught.value)


def test_bad_input_is_one_line_that_says_what_to_do(folder: StudyFolder, tmp_path: Path) -> None:
    for asked, problem in [
        ({"hardware": "h100"}, "no hardware 'h100'; did you mean \"h100-sxm\""),
        ({"hardware": "b200", "gpus": 0}, "--gpus 0"),
        ({"hardware": "b200", "tokens": float("nan")}, "--tokens nan"),
        ({"hardware": "b200", "tokens": 0}, "--tokens 0"),
        ({"hardware": "b200", "table": tmp_path / "none.toml"}, "none.toml cannot be read: No such file"),
    ]:
        with pytest.raises(UserError, match=problem):
            make_plan(folder, **asked)  # type: ignore[arg-type]


def test_a_name_in_a_strangers_table_cannot_steer_the_terminal(folder: StudyFolder, table: Path) -> None:
    table.write_text(EDITED.replace("My machine", "\\u001b[31m[red]evil[/red]"))
    text = shown(make_plan(folder, "mine", table=table))
    assert "\x1b" not in text and "[red]evil[/red]" in text


def test_the_table_agrees_with_the_peaks_that_the_trainer_knows() -> None:
    source = (HARDWARE_FILE.parents[1] / "trainer" / "flops.py").read_text()
    (sheet,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DATASHEET_TFLOPS"
    )
    machines = load_hardware()
    for key, name in {
        "h200-sxm": "NVIDIA H200", "h100-sxm": "NVIDIA H100 80GB HBM3", "a100-80gb": "NVIDIA A100-SXM4-80GB",
        "rtx-4090": "NVIDIA GeForce RTX 4090",
    }.items():  # fmt: skip
        assert machines[key].peak_flops == pytest.approx(sheet[name]["bf16"] * 1e12)
    for key, machine in machines.items():
        assert any(year in machine.source for year in ("(2025-", "(2026-")), f"{key} does not say when"
    assert "EXAMPLES" in HARDWARE_FILE.read_text() and tomllib.loads(HARDWARE_FILE.read_text()).keys() == {
        "dgx-spark", "rtx-4090", "rtx-5090", "a100-80gb", "h100-sxm", "h200-sxm", "b200",
    }  # fmt: skip
