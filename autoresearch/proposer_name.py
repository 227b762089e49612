"""How a proposer is named: by a word, or as a student with the folder that holds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LANGUAGE_MODEL = "llm"
STUDENTS = ("lora", "scratch")
# Each with the model that it asks, if any.
WORDS = {**dict.fromkeys(("auto", "hybrid", "llm"), LANGUAGE_MODEL), **dict.fromkeys(("gp", "tpe", "random"))}
HYBRID = "hybrid"
FORMS = "lora:DIR, scratch:DIR, hybrid:lora:DIR or hybrid:scratch:DIR"
SHIPPED = Path("shipped")  # stands for the folder of what comes with the package


@dataclass(frozen=True)
class ProposerName:
    """`kind`: one of WORDS, or a student that proposes alone. `model`: the model that is asked, as its proposals are
    named; None: none is. `folder`: a student's, as it was given; None: it is no student."""

    kind: str
    model: str | None
    folder: Path | None = None

    @classmethod
    def read(cls, text: str) -> ProposerName:
        """Looks at no disk. Raises ValueError for a name that is none."""
        if text in WORDS:
            return cls(text, WORDS[text])
        beside = f"{HYBRID}:"
        student, _, folder = text.removeprefix(beside).partition(":")
        if student not in STUDENTS or not folder.strip():
            words = ", ".join(map(repr, WORDS))
            raise ValueError(f"choose {words}, or what was taught: {FORMS}")
        return cls(HYBRID if text.startswith(beside) else student, student, Path(folder))

    @property
    def is_hybrid(self) -> bool:
        """Whether an optimizer may propose beside the model."""
        return self.kind in ("auto", HYBRID)

    def __str__(self) -> str:
        if self.folder is None:
            return self.kind
        alone = f"{self.model}:{self.folder}"
        return f"{HYBRID}:{alone}" if self.is_hybrid else alone

    def absolute(self) -> ProposerName:
        """The same from wherever a night is started."""
        if self.folder in (None, SHIPPED):
            return self
        return ProposerName(self.kind, self.model, self.folder.expanduser().absolute())
