"""What must never be written down, whoever tells it: the key, and the credentials in an address."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path

import pytest
from command_line import run as command
from endpoint import KEY, Endpoint, assert_nowhere
from endpoint_replies import body, said
from studies import change, make_study, run_study

from autoresearch.config import ProposerSettings
from autoresearch.errors import UserError
from autoresearch.proposers import make_proposer
from autoresearch.secrecy import Secrets, without_credentials


@pytest.mark.parametrize("kind", ["llm", "hybrid"])
@pytest.mark.parametrize("dead", [False, True])
def test_a_secret_that_the_server_tells_is_in_no_file_and_in_nothing_shown(
    dead: bool,
    kind: str,
    endpoint: Endpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    secrets = [KEY, "hunter2", "passing-by", b64encode(b"anna:hunter2").decode()]
    told = change("lr", 0.003, f"Because of {' and '.join(secrets)}")
    endpoint.reply = body(f"no: {told}", 418) if dead else said(told)
    host = endpoint.url.removeprefix("http://")
    url = f"http://anna:hunter2@{host}?api_key=passing-by&version=7"
    folder = make_study(tmp_path, proposer__base_url=url)
    monkeypatch.setattr("autoresearch.proposers.share.AFTER", 0)
    monkeypatch.setattr("autoresearch.proposers.known.STARTS", 1)
    settings = folder.settings.proposer.model_copy(update={"name": kind, "model_share": 1.0, "max_retries": 0})
    run_study(folder, proposer=make_proposer(settings), trials=3, workers=1)
    assert endpoint.keys[0] == f"Basic {secrets[-1]}", "the request has what it needs"
    assert endpoint.paths[0] == "/v1/chat/completions?api_key=passing-by&version=7"
    monkeypatch.setenv("AUTORESEARCH_HOME", str(tmp_path))
    shown = [
        command(monkeypatch, capsys, *arguments)
        for arguments in (
            ["show", "one", "1"], ["trials", "one"], ["status", "one"], ["inspect", "one"], ["report", "one"],
            ["export", "one", "--format", "jsonl", "--out", str(folder.path / "out.jsonl")],
            ["export", "one", "--format", "csv", "--out", str(folder.path / "out.csv")],
        )
    ]  # fmt: skip
    assert {said.code for said in shown} == {0}
    events = json.dumps(folder.store.events(99))
    told_of = events if dead else repr([trial.hypothesis for trial in folder.store.trials()])
    assert (f"http://{host} does not answer" if dead else "[secret]") in told_of
    for secret in secrets:
        assert_nowhere(secret, folder, events, *(said.out + said.err for said in shown))


@pytest.mark.parametrize(
    ("address", "shown", "secrets"),
    [
        ("https://host/v1", "https://host/v1", []),
        ("https://anna:hunter2@host:8000/v1", "https://host:8000/v1", ["hunter2", "anna:hunter2"]),
        ("https://sometoken@host/v1", "https://host/v1", ["sometoken"]),
        ("https://anna:pa%40ss@host/v1", "https://host/v1", ["pa%40ss", "pa@ss"]),
        ("https://anna:pa@ss/w?rd@host/v1", "https://host/v1", ["pa@ss/w?rd"]),
        ("anna:hunter2@host/v1", "host/v1", ["hunter2"]),
        ("https://host/v1?api_key=abcdefgh#there", "https://host/v1", ["abcdefgh"]),
        ("https://host/v1?api-version=2024-02-01", "https://host/v1", []),
        ("", "", []),
    ],
)
def test_an_address_is_shown_without_its_credentials(address: str, shown: str, secrets: list[str]) -> None:
    assert without_credentials(address) == shown
    cut = Secrets.of(None, address).cut
    assert all(cut(f"<{secret}>") == "<[secret]>" for secret in secrets)
    assert cut("https host v1 anna 2024-02-01 lr 0.004") == "https host v1 anna 2024-02-01 lr 0.004"


def test_a_key_that_is_a_word_is_cut_where_it_stands_alone() -> None:
    cut = Secrets.of("test", "").cut
    assert cut('{"reason": "the latest test"}') == '{"reason": "the latest [secret]"}'
    assert Secrets.of("none of it", "").cut("none") == "none" and Secrets.of("x", "").cut("x") == "x"


def test_an_address_that_is_none_is_refused_without_its_password() -> None:
    with pytest.raises(UserError, match=r"address 'http://\[::1/v1' cannot be used") as error:
        make_proposer(ProposerSettings(base_url="http://anna:hunter2@[::1/v1"))
    assert "hunter2" not in str(error.value)
