"""Which questions to a model are metered, and that each is counted once, whatever came of it."""

from __future__ import annotations

from typing import Any

import pytest
from endpoint import Endpoint, completion
from histories import history
from studies import change

from autoresearch.config import ProposerSettings
from autoresearch.proposers import make_proposer
from autoresearch.workers.energy import Energy


class Meter:
    """Ten joules a question; `source` is where the next one's come from, "" where it is not metered."""

    def __init__(self) -> None:
        self.source, self.asked, self.is_open = "nvml", 0, False

    def begin(self) -> None:
        assert not self.is_open
        self.is_open = True
        self.asked += 1

    def end(self) -> Energy | None:
        assert self.is_open
        self.is_open = False
        return Energy(10.0, self.source) if self.source else None


def metered(**settings: Any) -> tuple[Any, Meter]:
    proposer: Any = make_proposer(ProposerSettings(**{"name": "llm", "max_retries": 0, **settings}))
    meter = Meter()
    proposer.metered_by(meter)
    return proposer, meter


def test_a_proposal_has_the_energy_of_all_that_it_took_and_the_next_one_its_own(endpoint: Endpoint) -> None:
    answers = [change("lr", 99), change("lr", 0.003)]
    endpoint.answer = lambda request: (200, completion(answers[min(1, len(request["messages"]) // 2 - 1)]))
    proposer, meter = metered()
    proposal = proposer.propose(history())
    asked = len(endpoint.requests) + len(endpoint.probes)
    assert asked == meter.asked > len(proposal.attempts) == 2
    assert (proposal.energy_joules, proposal.energy_source) == (10.0 * asked, "nvml")
    meter.source = "estimate"
    proposal = proposer.propose(history())
    assert (proposal.energy_joules, proposal.energy_source) == (20.0, "estimate")


def test_a_question_without_an_answer_took_energy_too(endpoint: Endpoint) -> None:
    endpoint.answer = lambda request: (503, "{}")
    proposer, meter = metered()
    proposal = proposer.propose(history())
    assert proposal.proposer == "gp" and proposal.energy_joules == 10.0 * meter.asked > 0
    proposal = proposer.propose(history())
    assert proposal.proposer == "gp" and proposal.energy_joules is None, "the model was not asked"


def test_what_is_not_metered_is_not_known(endpoint: Endpoint) -> None:
    proposer, meter = metered()
    meter.source = ""
    proposal = proposer.propose(history())
    assert meter.asked and (proposal.energy_joules, proposal.energy_source) == (None, None)


def test_a_model_beside_an_optimizer_is_metered(endpoint: Endpoint) -> None:
    proposer, meter = metered(name="hybrid", model_share=1.0)
    assert proposer.propose(history()).energy_joules is None and not meter.asked
    assert proposer.model.propose(history()).energy_joules and meter.asked


@pytest.mark.parametrize(
    ("host", "is_metered"),
    [("models.example", False), ("192.0.2.7", False), ("localhost.example", False), ("model.localhost", True),
     ("127.0.0.2", True), ("[::1]", True)],
)  # fmt: skip
def test_only_a_model_on_this_machine_is_metered(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, host: str, is_metered: bool
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", endpoint.url.removesuffix("/v1"))  # so any host is asked by way of the test's own
    proposer, meter = metered(base_url=f"http://{host}:8000/v1")
    proposal = proposer.propose(history())
    assert proposal.proposer == "llm" and bool(meter.asked) is is_metered
    assert (proposal.energy_joules is not None) is is_metered
