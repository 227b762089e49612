"""What the live page refuses: what another page asks for, and questions in SQL that would take the machine down."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import httpx
import pytest
from serving import served
from studies import GOOD, change, make_study, run_study

PATHS = ("/facts.json", "/trials/1.json", "/sql/", "/sql/study/trials.json", "/sql/study?sql=SELECT+1", "/nowhere")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client for what leaves the study as it is."""
    home = tmp_path_factory.mktemp("home")
    run_study(make_study(home, decision__max_runs=2), [change("lr", GOOD)])
    with served(home) as client:
        yield client


FROM_ELSEWHERE = (
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},  # another port of this machine
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Referer": "http://evil.example/page"},
    {"Referer": "http://127.0.0.1:1/"},
)


@pytest.mark.parametrize("headers", FROM_ELSEWHERE)
def test_what_another_page_asks_for_is_refused(reader: httpx.Client, headers: dict[str, str]) -> None:
    for path in PATHS:
        answer = reader.get(path, headers=headers)
        assert (answer.status_code, len(answer.text.splitlines())) == (403, 1)
    assert reader.get("/", headers=headers).status_code == 200, "the empty page may be linked to"


def test_the_own_page_a_typed_address_and_a_program_get_their_answers(reader: httpx.Client) -> None:
    own = str(reader.base_url).rstrip("/")
    for headers in (
        {},
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
        {"Sec-Fetch-Site": "same-origin", "Referer": f"{own}/sql/"},
        {"Origin": own},
        {"Referer": f"{own}/"},
    ):
        for path in ("/", *PATHS[:-1]):
            assert reader.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT zeroblob(1000000000)",
        "SELECT length(randomblob(1000000000))",
        "SELECT hex(zeroblob(1000000000))",
        "SELECT replace(hex(zeroblob(500000)), '0', 'ten letters')",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT group_concat(i) FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT json_group_array(i) FROM n",
        "WITH RECURSIVE n(t) AS (SELECT 'x' UNION ALL SELECT t || t FROM n) SELECT t FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT zeroblob(1000000) FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT DISTINCT randomblob(100000) FROM n",
        f"SELECT {', '.join(['zeroblob(1000000)'] * 500)}",
    ],
)
def test_a_question_takes_no_memory_that_the_machine_may_lack(reader: httpx.Client, sql: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in ("/sql/study", "/sql/study.json"):
        answer = reader.get(path, params={"sql": sql})
        assert (answer.status_code, len(answer.content) < 100_000) == (400, True)
        assert "Traceback" not in answer.text
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10, "KiB more than at most before"
    assert reader.get("/facts.json").status_code == 200
