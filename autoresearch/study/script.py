"""The script of a study that turns a script's constants: as it was when the study was made, and with a recipe in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from autoresearch.constants import MOST_BYTES, Constant, patched, read_constants, same
from autoresearch.errors import UserError
from autoresearch.study.script_repository import ScriptRepository
from autoresearch.trial import Recipe
from rails import Menu
from rails.values import nearest, shown

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\.py")
OTHER_NAME = "script.py"


@dataclass(frozen=True)
class Script:
    """name: what it is called in the study's repository. commit: the one that was checked out in the script's own;
    None: it is in none, or nothing was committed there."""

    name: str
    text: str
    commit: str | None = None

    @classmethod
    def read(cls, path: Path) -> Script:
        """The script as it lies there. Raises UserError, one line, where it cannot be one."""
        if path.is_dir():
            raise UserError(f"{path} is a folder: name the script in it, such as {path}/train.py")
        try:
            with path.open("rb") as file:
                data = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        if len(data) > MOST_BYTES:
            raise UserError(f"{path} is larger than {MOST_BYTES:,} bytes: constants are read from shorter scripts only")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise UserError(f"{path}, line {line}: this is no UTF-8: is it a Python script?") from None
        read_constants(text, str(path))
        repository = ScriptRepository.of(path)
        name = path.name if _NAME.fullmatch(path.name) else OTHER_NAME
        return cls(name, text, repository.head() if repository else None)

    def at(self, recipe: Recipe) -> dict[str, str]:
        """Its name, and its text with the recipe's values in it."""
        return {self.name: patched(self.text, recipe)}

    def constants(self) -> dict[str, Constant]:
        """Knob -> constant."""
        return {found.knob: found for found in read_constants(self.text, self.name)[0]}

    def require(self, menu: Menu) -> None:
        """Raises UserError unless each knob of the menu is a constant and its default is what the script says: the
        baseline is the script as it stands."""
        constants = self.constants()
        for knob in menu.knobs.values():
            if (constant := constants.get(knob.name)) is None:
                raise UserError(
                    f"menu.toml: {self.name} has no constant {knob.name.upper()} at its top for knob {knob.name}"
                    f"{nearest(knob.name, list(constants))}"
                )
            if not same(constant.value, knob.default):
                raise UserError(
                    f"menu.toml: knob {knob.name}: the default is {shown(knob.default)}, but line {constant.line} of "
                    f"{self.name} says {constant.name} = {shown(constant.value)}: the baseline is the script as it "
                    "stands, so make them one"
                )
