"""What the tests of a taught model share: its base, the corpus, the adapter and a decoder, each made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import taught
import taught_scratch


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught.write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tokenizer(base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught.write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def adapter(corpus: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> taught.Adapter:
    return taught.Adapter(corpus, base, tmp_path_factory.mktemp("out") / "adapter")


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> taught_scratch.TaughtHere:
    """Its proposals are as good as any."""
    return taught_scratch.teach(tmp_path_factory.mktemp("scratch"))
