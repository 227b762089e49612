"""The menu and its constraints: what is sound loads, what is not is refused with one helpful line."""

import pytest

from rails import Menu, RailsError, load_menu
from rails.expression import compile_constraint
from rails.values import KnobType

LR = '[knobs.lr]\ntype = "float"\nlow = 1e-5\nhigh = 1e-2\ndefault = 1e-3\n'
TYPES: dict[str, KnobType] = {"a": "int", "b": "float", "s": "str", "t": "bool"}


def test_a_menu_holds_each_knob_as_written(menu: Menu) -> None:
    lr, d_model, tied = (menu.knobs[name] for name in ("lr", "d_model", "tied"))
    assert (lr.name, lr.type, lr.low, lr.high, lr.choices, lr.scale, lr.default) == (
        "lr",
        "float",
        1e-5,
        1e-2,
        (),
        "log",
        1e-3,
    )
    assert d_model.choices == (64, 96, 128) and d_model.low is None and d_model.doc == "width"
    assert tied.choices == (False, True) and menu.max_changes == 1


def test_a_float_knob_written_with_integers_holds_floats(menu: Menu) -> None:
    knob = menu.knobs["weight_decay"]
    assert [type(value) for value in (knob.low, knob.high, knob.default)] == [float] * 3


def test_a_menu_without_a_compute_ratio_has_none(menu_text: str) -> None:
    assert load_menu(menu_text).max_compute_ratio is None
    for written, held in (("1", 1.0), ("1.5", 1.5), ("0.75", 0.75)):
        assert load_menu(f"max_compute_ratio = {written}\n{menu_text}").max_compute_ratio == held


def test_defaults_follow_the_menus_order(menu: Menu) -> None:
    assert list(menu.defaults()) == ["d_model", "n_head", "lr", "weight_decay", "precision", "tied"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no knobs"),
        ("knobs = 3", "no knobs"),
        ("[knobs]\nlr = 3", "[knobs.lr]"),
        ("not toml", "no valid TOML"),
        ("a = " + "[" * 5000, "no valid TOML"),
        ("a = " + "9" * 5000, "no valid TOML"),
        (LR + "lo = 1", 'knob lr: unknown key "lo"; did you mean "low"?'),
        ("max_change = 2\n" + LR, 'did you mean "max_changes"?'),
        ("max_changes = 0\n" + LR, "1 or more"),
        ("max_compute = 2\n" + LR, 'did you mean "max_compute_ratio"?'),
        *(
            (f"max_compute_ratio = {wrong}\n" + LR, "max_compute_ratio must be a number above 0, such as 1.5, not")
            for wrong in ("0", "-1.5", "nan", "inf", "true", '"1.5"', "[1.5]", "9" * 40)
        ),
        ("max_changes = true\n" + LR, "1 or more"),
        ("max_changes = 1.0\n" + LR, "1 or more"),
        ('max_changes = "1"\n' + LR, "1 or more"),
        (LR.replace("1e-2", "1e-6"), "range is empty"),
        (LR.replace("default = 1e-3", "default = 1"), "default: lr must be a float from 1e-05 to 0.01, not 1"),
        (LR.replace("default = 1e-3", ""), "no default"),
        (LR.replace("default = 1e-3", "default = nan"), "not nan"),
        (LR.replace("default = 1e-3", 'default = "1e-3"'), "default"),
        (LR.replace("low = 1e-5\n", ""), "low must be a float, finite, not missing"),
        (LR.replace("high = 1e-2", "high = inf"), "high"),
        (LR.replace("low = 1e-5", "low = true"), "low"),
        (LR.replace("low = 1e-5", "low = 0") + 'scale = "log"', "above 0"),
        (LR + 'scale = "cubic"', "scale"),
        (LR + "scale = []", "scale"),
        (LR + "choices = [1e-3]", "low has no place here"),
        (LR + "doc = 3", "doc"),
        (LR.replace('"float"', '"double"'), "type must be"),
        (LR.replace('"float"', "[]"), "type must be"),
        (LR.replace('"float"', '"int"'), "low must be an int"),
        (LR.replace("knobs.lr", "knobs.Lr"), "lower-case"),
        (LR.replace("knobs.lr", "knobs.min"), "reserved"),
        (LR.replace("knobs.lr", "knobs.lambda"), "reserved"),
        (LR.replace("knobs.lr", "knobs.budget_steps"), "reserved"),
        (LR.replace("knobs.lr", 'knobs."a b"'), "lower-case"),
        ('[knobs.s]\ntype = "str"\ndefault = "x"', "needs choices"),
        ('[knobs.s]\ntype = "str"\nchoices = []\ndefault = "x"', "one value or more"),
        ('[knobs.s]\ntype = "str"\nchoices = "xy"\ndefault = "x"', "list"),
        ('[knobs.s]\ntype = "str"\nchoices = ["x", "x"]\ndefault = "x"', "twice"),
        ('[knobs.s]\ntype = "str"\nchoices = ["x", 1]\ndefault = "x"', "plain string"),
        ('[knobs.s]\ntype = "str"\nchoices = ["x\\n"]\ndefault = "x"', "plain string"),
        ('[knobs.s]\ntype = "str"\nchoices = ["x"]\ndefault = "y"', "default"),
        ('[knobs.n]\ntype = "int"\nchoices = [1, 2.0]\ndefault = 1', "choices must be an int"),
        ('[knobs.n]\ntype = "int"\nchoices = [1, true]\ndefault = 1', "choices must be an int"),
        ('[knobs.n]\ntype = "int"\nchoices = [1, 2]\ndefault = 3', "default"),
        ('[knobs.n]\ntype = "int"\nlow = 1\nhigh = 0x' + "f" * 5000 + "\ndefault = 3", "high must be an int"),
        ('[knobs.f]\ntype = "float"\nchoices = [1, 1.0]\ndefault = 1', "twice"),
        ('[knobs.t]\ntype = "bool"\ndefault = 1', "default"),
        ('[knobs.t]\ntype = "bool"\nlow = 0\nhigh = 1\ndefault = true', "no place here"),
        ("constraints = 3\n" + LR, "list of tables"),
        ("constraints = [3]\n" + LR, "list of tables"),
        (LR + "[[constraints]]\nexpr = 3", "a constraint needs expr"),
        (LR + '[[constraints]]\nexp = "lr < 1"', 'did you mean "expr"?'),
        (LR + '[[constraints]]\nexpr = "rl < 1"', 'names "rl", which is no knob; did you mean "lr"?'),
        (LR + "[[constraints]]\nexpr = \"lr < 'x'\"", "number only"),
    ],
)
def test_an_unsound_menu_is_refused_in_one_line_that_names_the_file(text: str, words: str) -> None:
    with pytest.raises(RailsError) as caught:
        load_menu(text, "here/menu.toml")
    message = str(caught.value)
    assert message.startswith("here/menu.toml: ") and words in message and message.isprintable()


def test_a_menus_error_is_the_users_mistake() -> None:
    assert issubclass(RailsError, ValueError)


@pytest.mark.parametrize(
    ("expr", "value"),
    [
        ("a % 4 == 0", True),
        ("a // 3 == 2 and b / 2 == 0.25", True),
        ("not t", False),
        ("t", True),
        ("s == 'x'", True),
        ('s != "x" or a > 7', True),
        ("1 <= a <= 8 < 9", True),
        ("1 <= a <= 7 < 9", False),
        ("min(a, 3) == 3", True),
        ("max(a, b, 100) - 100 == 0", True),
        ("-a < +b", True),
        ("(a + 1) * 2 == 18", True),
        ("t == (a > 3)", True),
        ("t and not (a == 8)", False),
        ("a == 8.0", True),
        ("a % 4 == 0 or a / 0 > 1", True),
    ],
)
def test_a_constraint_has_the_value_python_gives_it(expr: str, value: bool) -> None:
    assert compile_constraint(expr, "", TYPES).holds({"a": 8, "b": 0.5, "s": "x", "t": True}) is value


@pytest.mark.parametrize(
    "expr",
    [
        "",
        " ",
        "a",
        "a +",
        "a = 1",
        "a ** 2 > 1",
        "a << 9 > 1",
        "a & 1 == 1",
        "~a == 1",
        "a.real == 1",
        "a[0] == 1",
        "abs(a) == 1",
        "__import__('os') == 1",
        "open('x') == 1",
        "(lambda: 1)() == 1",
        "min == 1",
        "min(a) == 1",
        "min(*[a], 1) == 1",
        "min(a, b, key=a) == 1",
        "min(a, s) == 1",
        "[a] == [1]",
        "(a, 1) == (1, 1)",
        "{} == a",
        "a in (1, 2)",
        "a is 1",
        "a if t else b",
        "(a := 1) == 1",
        "f'{a}' == s",
        "s < 'y'",
        "s + 'y' == 'xy'",
        "s * 9 == 'x'",
        "'%99999999d' % a == s",
        "s % a == s",
        "a == s",
        "t + 1 == 2",
        "t > 0",
        "t == 1",
        "a and t",
        "not a",
        "-s == 1",
        "-t == 1",
        "b'x' == s",
        "1j == a",
        "... == a",
        "None == a",
        "c == 1",
        "1 == 1",
        "True",
        "a < 1e400",
        f"a < {2**60}",
        "a < " + "9" * 200,
        "a < 1" + " " * 400 + "0",
        "(" * 150 + "a" + ")" * 150,
        "-" * 250 + "a < 1",
        "not " * 60 + "t",
        "+".join("a" * 60) + " > 1",
        "a > 1\0",
        "a > 1\nb > 1",
        "await a",
        "yield a",
        "a @ b > 1",
    ],
)
def test_anything_off_the_whitelist_is_refused_when_the_menu_loads(expr: str) -> None:
    with pytest.raises(RailsError):
        compile_constraint(expr, "", TYPES)


def test_nested_comparisons_are_checked_without_delay() -> None:
    with pytest.raises(RailsError, match="nested"):
        compile_constraint("(" * 40 + "a" + "==b)" * 40 + " == t", "", TYPES)


@pytest.mark.parametrize(
    "expr", ["a / (a - 8) > 1", "a % (a - 8) > 1", "b * 1e15 * big > 1", "b * big == 1", "big / b > 1"]
)
def test_arithmetic_without_an_answer_is_an_error_of_ours_alone(expr: str) -> None:
    types = {**TYPES, "big": "int"}
    with pytest.raises(RailsError, match="no answer"):
        compile_constraint(expr, "", types).holds({"a": 8, "b": 1e-3, "s": "x", "t": True, "big": 10**320})
