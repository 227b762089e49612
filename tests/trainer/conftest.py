"""A tiny prepared text and real worker processes for the trainer's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_process import RECIPE, Worker, write_texts

from trainer.data import Dataset, prepare
from trainer.protocol import RunRequest
from trainer.recipe import Recipe


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="session")
def data_dir(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(str(texts), tmp_path_factory.mktemp("data"), vocab_size=512, val_bytes=10_000, test_bytes=10_000)


@pytest.fixture(scope="session")
def dataset(data_dir: Path) -> Dataset:
    return Dataset.open(data_dir)


@pytest.fixture(scope="module")
def warm_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One for all tests of a file: what a test does to it must not show in the next. Not for the session, in which
    other files' tests count the processes that they leave."""
    worker = Worker(tmp_path_factory.mktemp("worker"))
    yield worker
    worker.close()


@pytest.fixture
def new_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(memory_limit_bytes: int | None = None) -> Worker:
        workers.append(Worker(tmp_path, memory_limit_bytes))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


@pytest.fixture
def request_for(tmp_path: Path, data_dir: Path) -> Callable[..., RunRequest]:
    """Builds a request; keywords are knobs of the recipe or fields of the request."""
    made: list[str] = []

    def build(**changes: Any) -> RunRequest:
        made.append(f"run-{len(made)}")
        knobs = {name: changes.pop(name) for name in list(changes) if name in Recipe.__dataclass_fields__}
        fields: dict[str, Any] = {
            "run_id": made[-1],
            "recipe": RECIPE | knobs,
            "seed": 0,
            "budget": {"steps": 20},
            "data_dir": str(data_dir),
            "result_path": str(tmp_path / f"{made[-1]}.json"),
            "device": "cpu",
        }
        return RunRequest(**(fields | changes))

    return build
