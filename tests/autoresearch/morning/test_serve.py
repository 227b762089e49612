"""The server: a real one on a real port, asked over HTTP about a real study that stub workers ran."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import TOKEN, address, output_of, process, served
from studies import BAD, GOOD, assert_git_and_database_agree, change, make_study, query, run_study

from autoresearch.errors import UserError
from autoresearch.facts import to_json
from autoresearch.morning.report import facts as facts_module
from autoresearch.morning.serve import serve
from autoresearch.study.folder import StudyFolder

EVIL = "<script>alert(1)</script>"
FROM_PAGE = {"X-Autoresearch": "1"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a study of three trials: one kept, one discarded, one blocked."""
    home = tmp_path_factory.mktemp("home")
    answers = [change("lr", GOOD, EVIL), change("lr", BAD), change("lr", -1)]
    run_study(make_study(home, decision__max_runs=3), answers, trials=3)
    return home


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "home"))


@pytest.fixture
def client(home: Path) -> Iterator[httpx.Client]:
    with served(home) as client:
        yield client


@pytest.fixture(scope="module")
def reader(finished: Path) -> Iterator[httpx.Client]:
    """A client for what leaves the study as it is."""
    with served(finished) as client:
        yield client


def control_of(home: Path) -> tuple[str, str]:
    """What the runner reads, and the last event."""
    folder = StudyFolder(home, "one")
    return folder.store.control, folder.store.events(1)[0]["message"]


# --- the page and its facts ---


def test_the_page_is_live_and_cannot_be_framed(reader: httpx.Client) -> None:
    answer = reader.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "data-live" in answer.text
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_facts_are_those_of_the_report_and_travel_gzipped(client: httpx.Client, home: Path) -> None:
    answer = client.get("/facts.json")
    assert answer.json() == json.loads(to_json(facts_module.facts(StudyFolder(home, "one"))))
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["content-type"] == "application/json"


def test_facts_are_computed_and_sent_once_per_change(
    client: httpx.Client, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    real: Callable[[StudyFolder], Any] = facts_module.facts

    def counted(folder: StudyFolder) -> Any:
        computed.append(1)
        return real(folder)

    monkeypatch.setattr(facts_module, "facts", counted)
    first = client.get("/facts.json")
    again = client.get("/facts.json", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, len(computed)) == (304, b"", 1)
    StudyFolder(home, "one").store.set_control("pause", "paused by a person")
    changed = client.get("/facts.json", headers={"If-None-Match": first.headers["etag"]})
    assert (changed.status_code, changed.json()["study"]["control"], len(computed)) == (200, "pause", 2)


def test_a_runner_that_starts_or_dies_is_a_change(client: httpx.Client, home: Path) -> None:
    from autoresearch.study.lock import RunnerLock

    assert not client.get("/facts.json").json()["study"]["running"]
    with RunnerLock(home / "one"):
        assert client.get("/facts.json").json()["study"]["running"]
    assert not client.get("/facts.json").json()["study"]["running"]


def test_the_cluster_is_told_while_a_night_runs_on_one(client: httpx.Client, home: Path) -> None:
    from autoresearch.study.lock import RunnerLock
    from autoresearch.workers.fleet import Fleet, Place

    with RunnerLock(home / "one"):
        assert client.get("/cluster.json").json() is None, "a night on this machine"
        Fleet(home / "one").write([Place(1, "a\x1b[2Jnt", "aaaa1111", "Some GPU", "0001-0", False, 3, 0.5, 60.0)])
        found = client.get("/cluster.json").json()
        assert found["sentence"] == "1 slot on 1 node; so far slots were busy 50 % of their time."
        assert found["slots"]["rows"] == [["1", "ant (aaaa1111)", "Some GPU", "0001-0", "3", "50 %"]]
    assert client.get("/cluster.json").json() is None, "what a killed night left"


def test_a_trial_is_told_whole_and_a_missing_one_is_404(client: httpx.Client) -> None:
    trial = client.get("/trials/1.json").json()
    assert trial["hypothesis"] == EVIL
    assert f"+lr = {GOOD}" in trial["diff"]
    assert len(trial["runs"]["rows"]) >= 2
    assert client.get("/trials/3.json").json()["runs"]["rows"] == []
    for missing in ("4", "-1", "x", "9" * 5000, "1%2F..%2F..%2Fstudy"):
        answer = client.get(f"/trials/{missing}.json")
        assert answer.status_code == 404
        assert len(answer.text.splitlines()) == 1


def test_a_failure_inside_is_one_line_and_no_traceback(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: StudyFolder) -> None:
        raise UserError("study.db is damaged")

    monkeypatch.setattr(facts_module, "facts", broken)
    answer = client.get("/facts.json")
    assert (answer.status_code, answer.text) == (503, "the study cannot be read now: study.db is damaged\n")
    monkeypatch.undo()
    assert client.get("/facts.json").status_code == 200


# --- pause and resume ---


def test_pause_and_resume_reach_the_runner_as_from_the_command_line(client: httpx.Client, home: Path) -> None:
    for control, event in (("pause", "paused from the page"), ("run", "resumed from the page")):
        answer = client.post("/control", json={"control": control}, headers=FROM_PAGE)
        assert answer.json() == {"control": control}
        assert control_of(home) == (control, event)
        assert client.get("/facts.json").json()["study"]["control"] == control


def test_nobody_steers_the_study_from_another_page(client: httpx.Client, home: Path) -> None:
    before = control_of(home)
    body, json_type = '{"control": "pause"}', {"Content-Type": "application/json"}

    def post(path: str = "/control", body: str = body, **headers: str) -> int:
        return client.post(path, content=body, headers={k.replace("_", "-"): v for k, v in headers.items()}).status_code

    sent = {"X_Autoresearch": "1", "Content_Type": "application/json"}
    assert post(**json_type) == 403
    assert post(X_Autoresearch="1", Content_Type="text/plain") == 415
    assert post(**sent, Origin="http://evil.example") == 403
    assert post(**sent, Origin="null") == 403
    assert post(**sent, Origin=f"http://127.0.0.1:{(client.base_url.port or 0) + 1}") == 403
    for bad in ("", "[]", '"pause"', "{}", '{"control": "stop"}', '{"control": ["run"]}', "[" * 999):
        assert post(body=bad, **sent) == 400
    assert post(body=" " * 1001, **sent) == 413
    assert post("/facts.json", **sent) == 405
    assert client.get("/control").status_code == 405
    assert control_of(home) == before
    assert post(**sent, Origin=str(client.base_url).rstrip("/")) == 200


def test_an_imported_study_cannot_be_steered_but_is_served(home: Path) -> None:
    folder = StudyFolder(home, "one")
    folder.store.db.execute(
        "UPDATE studies SET source = ?", ['{"format": "jsonl", "file": "theirs.jsonl", "budget_known": true}']
    )
    folder.store.close()
    with served(home) as client:
        assert client.get("/facts.json").json()["study"]["origin"] == "imported from theirs.jsonl (jsonl)"
        assert client.post("/control", json={"control": "pause"}, headers=FROM_PAGE).status_code == 409
        assert control_of(home)[0] == "run"


# --- who may come in ---

PATHS = ("/", "/facts.json", "/trials/1.json", "/sql/", "/sql/study/trials.json", "/nowhere")


@pytest.mark.parametrize("path", PATHS)
def test_without_a_token_a_name_from_outside_is_refused(reader: httpx.Client, path: str) -> None:
    for host in ("evil.example", "evil.example:8642", "127.0.0.1.evil.example", "192.168.0.7:8642", "", "[::1"):
        answer = reader.get(path, headers={"Host": host})
        assert (answer.status_code, len(answer.text.splitlines())) == (403, 1)
    for host in ("localhost:1", "LOCALHOST", "127.0.0.1", "[::1]:8642"):
        assert reader.get(path, headers={"Host": host}).status_code != 403


def test_with_a_token_nothing_is_told_to_those_who_lack_it(home: Path) -> None:
    with served(home, TOKEN) as client:
        for path in PATHS:
            for extra in ("", "?token=", "?token=wrong", "?token=%C3%A9", f"?Token={TOKEN}"):
                answer = client.get(path + extra)
                assert (answer.status_code, len(answer.text.splitlines())) == (401, 1)
                assert "set-cookie" not in answer.headers
            assert client.get(path, headers={"Authorization": f"Basic {TOKEN}"}).status_code == 401
            assert client.get(path, headers={"Authorization": f"Bearer {TOKEN[:-1]}"}).status_code == 401
            assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code in (200, 404)
        assert client.post("/control", json={"control": "pause"}, headers=FROM_PAGE).status_code == 401
        assert control_of(home)[0] == "run"


def test_a_token_in_the_address_moves_into_a_cookie(home: Path) -> None:
    with served(home, TOKEN) as client:
        answer = client.get(f"/sql/study/trials.json?_size=1&token={TOKEN}&_shape=array")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/sql/study/trials.json?_size=1&_shape=array"
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert len(client.get(answer.headers["location"]).json()) == 1
        assert client.post("/control", json={"control": "pause"}, headers=FROM_PAGE).status_code == 200
        elsewhere = client.get(f"{client.base_url}//evil.example/?token={TOKEN}")
        assert elsewhere.headers["location"] == "/evil.example/"


# --- SQL ---


def test_datasette_is_usable_where_it_is_mounted(reader: httpx.Client) -> None:
    start = reader.get("/sql", follow_redirects=True)
    assert start.status_code == 200
    pages = {start.url.path: start.text}
    links = [link for link in re.findall(r'href="([^"#]+)"', start.text) if not link.startswith("http")]
    assert "/sql/study" in links
    for link in links:
        assert link.startswith("/sql/")
        answer = reader.get(link, follow_redirects=True)
        assert answer.status_code == 200
        pages[link] = answer.text
    for name in ("kept_trials", "energy_per_proposer", "failures", "runs_of_a_trial"):
        assert f"/sql/study/{name}" in pages["/sql/study"]


def test_the_ready_questions_have_answers(reader: httpx.Client) -> None:
    def ask(name: str, **values: int) -> list[dict[str, Any]]:
        return reader.get(f"/sql/study/{name}.json", params={"_shape": "array", **values}).json()

    assert [row["number"] for row in ask("kept_trials")] == [1]
    proposers = {row["proposer"]: row for row in ask("energy_per_proposer")}
    assert (proposers["scripted"]["trials"], proposers["scripted"]["blocked"], proposers["scripted"]["kept"]) == (
        3,
        1,
        1,
    )
    assert proposers["scripted"]["energy_joules"] > 0
    assert ask("failures") == []
    assert {row["state"] for row in ask("runs_of_a_trial", trial=1)} == {"complete"}


def test_text_of_a_model_is_escaped_in_datasette(reader: httpx.Client) -> None:
    for path in ("/sql/study/trials", "/sql/study/trials/1", "/sql/study/kept_trials"):
        text = reader.get(path).text
        assert EVIL not in text
        assert "&lt;script&gt;alert(1)" in text


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO events (at, kind, message) VALUES ('', '', '')",
        "WITH x AS (SELECT 1) INSERT INTO events (at, kind, message) SELECT '', '', '' FROM x",
        "WITH x AS (SELECT 1) UPDATE studies SET control = 'stop'",
        "WITH x AS (SELECT 1) DELETE FROM runs",
        "UPDATE studies SET control = 'stop'",
        "DELETE FROM runs",
        "DROP TABLE runs",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA query_only = 0",
        "SELECT * FROM pragma_writable_schema",
        "ATTACH '{home}/other.db' AS other",
        "VACUUM INTO '{home}/other.db'",
        "SELECT load_extension('evil')",
        "SELECT 1; DELETE FROM runs",
        "EXPLAIN SELECT 1; DELETE FROM runs",
        "/* SELECT */ DELETE FROM runs",
    ],
)
def test_sql_cannot_write(reader: httpx.Client, finished: Path, sql: str) -> None:
    def everything() -> tuple[list[str], list[Any]]:
        dump = StudyFolder(finished, "one").store.db.iterdump()
        return [*dump], sorted(path.name for path in finished.rglob("*") if "-" not in path.suffix)

    before = everything()
    question = {"sql": sql.replace("{home}", str(finished)), "_shape": "array"}
    for path in ("/sql/study", "/sql/study.json"):
        answer = reader.get(path, params=question)
        assert answer.status_code == 400
        assert "Traceback" not in answer.text
    reader.get("/sql/study.csv", params=question)  # answers 200 and tells the error in the text
    assert len(reader.get("/sql/study/kept_trials.json", params=question).json()) == 1, "a ready question is no other"
    assert everything() == before
    assert query(StudyFolder(finished, "one"), "PRAGMA journal_mode") == [("wal",)]


def test_nothing_is_posted_to_datasette_and_the_file_is_not_handed_out(reader: httpx.Client) -> None:
    for path in ("/sql/study", "/sql/study/kept_trials", "/sql/-/messages", "/sql/-/logout", "/sql/-/permissions"):
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            assert reader.request(method, path, headers=FROM_PAGE, json={}).status_code == 405
    assert reader.get("/sql/study.db").status_code == 403


def test_a_study_runs_undisturbed_while_it_is_read(tmp_path: Path) -> None:
    folder = make_study(tmp_path, decision__max_runs=2)
    done, answers = threading.Event(), set()
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT SUM(i) FROM n, runs"

    def read(client: httpx.Client) -> None:
        while not done.is_set():
            answers.add(client.get("/facts.json").status_code)
            answers.add(client.get("/sql/study/runs.json").status_code)
            answers.add(client.get("/sql/study.json", params={"sql": slow, "_timelimit": 50}).status_code)

    with served(tmp_path) as client:
        seen = client.get("/facts.json")
        reader = threading.Thread(target=read, args=(client,))
        reader.start()
        try:
            run_study(folder, [change("lr", GOOD), change("lr", BAD), change("lr", 0.003)], trials=3)
        finally:
            done.set()
            reader.join()
        assert answers == {200, 400}  # 400: the slow question was cut off
        assert len(client.get("/facts.json").json()["trials"]) == 4 > len(seen.json()["trials"])
    assert_git_and_database_agree(folder)


# --- the process ---


def test_a_signal_ends_the_server_cleanly(home: Path) -> None:
    with process(home, port=0) as running, httpx.Client() as client:  # its open connection does not hold it up
        url = address(running)
        assert client.get(f"{url}facts.json").status_code == 200
        assert client.get(f"{url}sql/study.json", params={"sql": "SELEKT"}).status_code == 400
        running.send_signal(signal.SIGINT)
        assert output_of(running) == "Ctrl-C ends it\n"
        assert running.returncode == 0


def test_beyond_loopback_a_token_is_made_and_demanded(home: Path) -> None:
    with process(home, port=0, host="0.0.0.0") as running:
        found = re.search(r":(\d+)/\?token=(\S{32,})$", address(running))
        assert found
        local = f"http://127.0.0.1:{found[1]}/facts.json"
        assert httpx.get(local).status_code == 401
        assert httpx.get(local, headers={"Authorization": f"Bearer {found[2]}"}).status_code == 200
        running.send_signal(signal.SIGTERM)
        assert output_of(running) == "Ctrl-C ends it\n"
        assert running.returncode == 0


def test_bad_hosts_ports_tokens_and_names_are_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserError, match=r"address already in use.*--port"),
    ):
        serve(home, "one", port=taken.getsockname()[1])
    for options, message in (
        ({"port": 70000}, "--port 70000: choose"),
        ({"host": "no such host"}, "--host no such host: no such address"),
        ({"token": "short"}, "the token needs 16"),
        ({"token": "sixteen characters; and a space"}, "the token needs 16"),
    ):
        with pytest.raises(UserError, match=message):
            serve(home, "one", **options)
    with pytest.raises(UserError, match="there is no study 'other'"):
        serve(home, "other", port=0)
    with pytest.raises(UserError, match="in its name; move it"):
        serve(Path(shutil.copytree(home, home / "50%")), "one", port=0)
    monkeypatch.setenv("AUTORESEARCH_TOKEN", "short")
    with pytest.raises(UserError, match="AUTORESEARCH_TOKEN"):
        serve(home, "one", port=0)
