"""How proposers are named, in study.toml and on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoresearch.config import ProposerSettings, parse_settings
from autoresearch.errors import UserError
from autoresearch.proposer_name import WORDS, ProposerName

TOML = 'preset = "cpu-nano"\nbudget = { tokens = 200000 }\n[proposer]\nname = "%s"\n'


@pytest.mark.parametrize(
    ("text", "kind", "model", "folder"),
    [
        ("gp", "gp", None, None),
        ("hybrid", "hybrid", "llm", None),
        ("lora:/made/of nights", "lora", "lora", "/made/of nights"),
        ("scratch:/x:y", "scratch", "scratch", "/x:y"),
        ("hybrid:lora:/x", "hybrid", "lora", "/x"),
        ("hybrid:scratch:/x", "hybrid", "scratch", "/x"),
    ],
)
def test_a_student_is_named_with_its_folder_alone_or_beside_the_optimizer(
    text: str, kind: str, model: str | None, folder: str | None
) -> None:
    named = ProposerName.read(text)
    assert (named.kind, named.model, named.folder) == (kind, model, folder and Path(folder))
    assert str(named) == text == ProposerSettings(name=text).name


@pytest.mark.parametrize(
    "text", ["", "gpt", "lora", "lora:", "hybrid:lora", "hybrid:", "hybrid:llm", "gp:/x", "auto:lora:/x"]
)
def test_a_name_that_is_none_is_one_line_with_those_that_are(text: str) -> None:
    with pytest.raises(UserError) as error:
        parse_settings(TOML % text, "study.toml")
    said = str(error.value)
    assert said.startswith("study.toml: proposer.name: ") and "\n" not in said and repr(text) in said
    assert "lora:DIR" in said and all(word in said for word in WORDS)


def test_a_folder_in_study_toml_is_the_same_from_wherever_a_night_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = ProposerName.read("hybrid:lora:adapter")
    with pytest.raises(UserError, match="whole path"):
        parse_settings(TOML % named, "study.toml")
    assert parse_settings(TOML % named.absolute(), "study.toml").proposer.name == f"hybrid:lora:{tmp_path}/adapter"
