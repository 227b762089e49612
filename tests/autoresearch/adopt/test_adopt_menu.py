"""Which constants become knobs, in which range, and what a script's score is called: by names and values alone."""

from __future__ import annotations

from typing import Any

import pytest

from autoresearch.adopt.knobs import LeftOut, Proposed, propose
from autoresearch.adopt.menu import menu_text, read_knobs
from autoresearch.adopt.script import guess_score
from autoresearch.constants import MOST_BYTES, read_constants
from autoresearch.errors import UserError
from rails import Knob, load_menu


def proposed(line: str, more: str = "") -> Proposed | LeftOut:
    knobs, left_out = read_knobs(f"{line}\nKEEPS_THE_MENU_FULL = True\n{more}", "train.py")
    return left_out[0] if left_out else knobs[0]


def knob(line: str, more: str = "") -> Knob:
    """As the menu has it, once read back."""
    source = f"{line}\n{more}"
    menu = load_menu(menu_text(source, "train.py", *read_knobs(source, "train.py")))
    return next(iter(menu.knobs.values()))


@pytest.mark.parametrize(
    ("line", "low", "high", "scale"),
    [
        ("LR = 1e-3", 1e-4, 1e-2, "log"),
        ("EMBEDDING_LR = 0.6", 0.06, 6.0, "log"),
        ("learning_rate: float = 6e-4", 6e-5, 6e-3, "log"),
        ("LR = 1", 0.1, 10.0, "log"),
        ("EPS = 1e-8", 1e-9, 1e-7, "log"),
        ("WEIGHT_DECAY = 0.0", 0.0, 0.1, "linear"),
        ("WEIGHT_DECAY = 0", 0.0, 0.1, "linear"),
        ("DROPOUT = 0", 0.0, 0.5, "linear"),
        ("DROPOUT_RATE = 0.1", 0.0, 0.5, "linear"),
        ("WARMDOWN_RATIO = 0.5", 0.0, 1.0, "linear"),
        ("ADAM_BETA1 = 0.9", 0.5, 0.99, "linear"),
        ("beta2 = 0.999", 0.995, 0.9999, "linear"),
        ("momentum = 0.0", 0.0, 1.0, "linear"),
        ("GRAD_CLIP = 1.0", 0.25, 4.0, "log"),
        ("BIAS = -1.0", -4.0, -0.25, "linear"),
        ("JITTER = 0.003", 0.0003, 0.03, "log"),
        ("GAIN = 1.7e308", 0, 0, ""),
        ("DEPTH = 8", 4, 16, "linear"),
        ("N_LAYER = 1", 1, 4, "linear"),
        ("WARMUP_STEPS = 250", 125, 500, "log"),
        ("WARMUP_STEPS = 0", 0, 10, "linear"),
        ("LR_DECAY_STEPS = 600", 300, 1200, "log"),
        ("SHIFT = -3", -6, -1, "linear"),
    ],
)
def test_a_range_lies_around_the_value(line: str, low: float, high: float, scale: str) -> None:
    if not scale:
        assert isinstance(proposed(line), LeftOut)
        return
    found = knob(line)
    assert (found.low, found.high, found.scale) == (low, high, scale)
    assert low <= found.default <= high  # type: ignore[operator]


@pytest.mark.parametrize(
    ("line", "more", "choices"),
    [
        ("BATCH_SIZE = 2**5", "", (8, 16, 32, 64, 128)),
        ("HEADS = 4", "", (1, 2, 4, 8, 16)),
        ("USE_BIAS = True", "", (False, True)),
        ("ACT = 'gelu'", "if ACT == 'relu': pass\nelif ACT in ('gelu', \"silu\"): pass", ("gelu", "relu", "silu")),
        ("ACT = 'gelu'", "match ACT:\n    case 'relu' | 'gelu': pass", ("gelu", "relu")),
    ],
)
def test_powers_of_two_switches_and_words_that_the_script_compares_become_choices(
    line: str, more: str, choices: tuple[Any, ...]
) -> None:
    assert knob(line, more).choices == choices


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("SEED = 1337", "a seed"),
        ("RANDOM_SEED = 3", "a seed"),
        ("TIME_BUDGET = 300", "what a run may spend"),
        ("MAX_STEPS = 400", "what a run may spend"),
        ("epochs = 3", "what a run may spend"),
        ("EVAL_INTERVAL = 100", "what is read, written or shown"),
        ("DATA_PATH = 'data'", "what is read, written or shown"),
        ("OUT_DIR = 'out'", "what is read, written or shown"),
        ("VAL_TOKENS = 4096", "how it is scored"),
        ("VOCAB_SIZE = 8192", "the data"),
        ("NUM_WORKERS = 4", "the machine"),
        ("PEAK_FLOPS = 989.5e12", "the machine"),
        ("WIDTH = 10**12", "too large"),
        ("PATTERN = 'SSSL'", "a text"),
        ("DEVICE = 'cuda'", "a text"),
        ("OPTIMIZER = 'adamw'", "alternatives"),
        ("ADAM_BETAS = (0.8, 0.95)", "no plain number"),
    ],
)
def test_what_is_no_knob_is_left_out_with_why(line: str, why: str) -> None:
    found = proposed(line)
    assert isinstance(found, LeftOut)
    assert why in found.why


def test_a_name_is_read_word_by_word() -> None:
    """RATIO is not in ASPECT_RATION, nor LR in a BLR."""
    for name in ("SEEDLING", "LOGIT_CAP", "PRINTER", "TESTOSTERONE", "TIMELY"):
        assert isinstance(propose(read_constants(f"{name} = 3")[0][0]), Proposed), name


def test_the_menu_tells_line_reason_comment_and_what_was_left_out() -> None:
    source = "SEED = 1\nLR = 1e-3  # the \x1b[31mrate\u202e\nOPTIMIZER = 'adamw'\nPATH = 'x'\nhelper = len('x')\n"
    text = menu_text(source, "train.py", *read_knobs(source, "train.py"))
    assert '# line 2: LR = 1e-3 # the rate\n# a tenth to ten times, by its name\n[knobs.lr]\ntype = "float"' in text
    assert load_menu(text).knobs["lr"].doc == "the rate"
    assert "# line 1: SEED: a seed" in text and "# line 4: PATH" in text and "helper" not in text
    offered = (
        text.replace("# [knobs.optimizer]", "[knobs.optimizer]")
        .replace("# type", "type")
        .replace("# choices", "choices")
    )
    offered = offered.replace('"..."', '"sgd"').replace("# default", "default")
    assert load_menu(offered).knobs["optimizer"].choices == ("adamw", "sgd")


def test_a_script_cannot_write_the_menu() -> None:
    """Names, values and comments of a hostile script stay what they are: one line each."""
    lines = [
        'A = 3  # x"\\n[knobs.evil]',
        "B = 'relu'",
        'if B in ("relu", "gelu\\"]\\n[knobs.evil]"): pass',
        "C = 4  # ''' \"\"\" ]] \\u0000",
        "LAMBDA = 2.0",
        "MIN = 5",
    ]
    source = "\r\n".join(lines) + "\r\n"
    menu = load_menu(menu_text(source, 'tr"a\nin.py', *read_knobs(source, "train.py")))
    assert list(menu.knobs) == ["a", "c", "lambda_", "min_"]
    assert menu.knobs["a"].doc == 'x"\\n[knobs.evil]'


def test_of_a_thousand_constants_a_menu_has_some() -> None:
    source = "".join(f"WIDTH_{n} = {n + 1}\n" for n in range(1000))
    knobs, left_out = read_knobs(source, "train.py")
    assert len(knobs) == 64 and left_out[0].why == "one knob too many"
    load_menu(menu_text(source, "train.py", knobs, left_out))


def test_a_script_as_large_as_may_be_is_read() -> None:
    source = "LR = 0.1\n" + "#" * (MOST_BYTES - 9)
    assert len(read_knobs(source, "train.py")[0]) == 1


def test_a_script_without_knobs_says_what_it_has_instead() -> None:
    with pytest.raises(UserError, match=r"no constant at its top level that could be a knob .*SEED, a seed"):
        read_knobs("SEED = 1\nimport os\n", "train.py")


@pytest.mark.parametrize(
    ("source", "name", "lower"),
    [
        ('print(f"val_bpb:          {x:.6f}")\nprint(f"training_seconds: {t:.1f}")', "val_bpb", True),
        ('print(f"train_loss: {a}")\nprint(f"val_loss: {b}")\nprint(f"steps: {c}")', "val_loss", True),
        ('print("accuracy:", x)', "accuracy", False),
        ('print("test_f1: %.4f" % x)', "test_f1", False),
        ('print("auc: {:.3f}".format(x))', "auc", False),
        ('print("reward: " + str(x))', "reward", False),
        ('print(f"---\\nval_loss: {x}")', "val_loss", True),
        ('def f():\n    print(f"mean_reward = {x}")', "mean_reward", False),
        ('print(f"epoch {i} val_loss: {x}")\nprint(f"error_score: {x}")', "error_score", True),
    ],
)
def test_the_score_is_the_likeliest_line_that_is_printed(source: str, name: str, lower: bool) -> None:
    found = guess_score(source)
    assert found is not None
    assert (found.name, found.lower_is_better) == (name, lower)


@pytest.mark.parametrize("source", ["x = 1", 'print(f"seconds: {x}")', "print(x)", 'print("done")', 'log("loss: 1")'])
def test_a_score_that_nothing_tells_is_not_made_up(source: str) -> None:
    assert guess_score(source) is None
