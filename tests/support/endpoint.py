"""A real HTTP server that speaks, or garbles, the OpenAI protocol."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from studies import change

from autoresearch.proposers.forms import QUESTION
from autoresearch.study.folder import StudyFolder

Answer = Callable[[dict[str, Any]], tuple[int, str]]
# Writes an answer, or what passes for one, byte by byte; the event is set when the server closes.
Reply = Callable[[BaseHTTPRequestHandler, threading.Event], None]
KEY = "secret-key"


class Endpoint:
    """POST /v1/chat/completions answered by `answer`, or, if there is one, by `reply`; remembers what it was asked.

    What it is asked to find out its forms is answered apart from that: `forms` are the ways that it enforces, with or
    without the `bounds` of numbers, and others are refused, or, unless it `refuses`, ignored.
    """

    def __init__(self) -> None:
        self.forms: set[str] = {"json_schema"}
        self.bounds = self.refuses = True
        self.probes: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.reply: Reply | None = None
        self.closed = threading.Event()
        self.answer: Answer = lambda request: (200, completion(change("lr", 0.004)))
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if body["messages"][-1]["content"] == QUESTION:
                    endpoint.probes.append(body)
                    self.answer(*endpoint.shown(body))
                    return
                endpoint.requests.append(body)
                endpoint.keys.append(self.headers.get("Authorization"))
                endpoint.paths.append(self.path)
                if endpoint.reply:
                    with suppress(OSError):  # whoever asked has hung up
                        endpoint.reply(self, endpoint.closed)
                    return
                self.answer(*endpoint.answer(body))

            def answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def shown(self, request: dict[str, Any]) -> tuple[int, str]:
        """What it can do, as its answer to the question for it."""
        way = way_of(request)
        if way not in self.forms and self.refuses and way != "text":
            return 400, json.dumps({"error": {"message": f"{way} is not supported"}})
        if way not in self.forms or way == "text":
            return 200, completion("Amber is number 1.")
        if way == "json_object":
            return 200, completion('{"answer": "Amber is number 1."}')
        return 200, completion(json.dumps({"word": "quartz", "number": 5.5 if self.bounds else 1}))

    def close(self) -> None:
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()


def way_of(request: dict[str, Any]) -> str:
    """In which form a question was asked."""
    for name, way in {"nvext": "guided_json", "structured_outputs": "structured_outputs"}.items():
        if name in request:
            return way
    return request["response_format"]["type"] if "response_format" in request else "text"


@contextmanager
def named_by_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """An endpoint that the environment names, of which nothing is remembered, and no proxy before it."""
    server = Endpoint()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("AUTORESEARCH_MODEL", "test/model")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory() as cache:
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        yield server
    server.close()


def completion(text: str) -> str:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 700, "completion_tokens": 30, "total_tokens": 730}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    )


def assert_nowhere(secret: str, folder: StudyFolder, *texts: str) -> None:
    """Not in any file of the study but the person's own study.toml, nor in what was shown."""
    files = [path for path in folder.path.rglob("*") if path.is_file() and path.name != "study.toml"]
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
    assert [text for text in texts if secret in text] == []
