"""A real HTTP server that speaks, or garbles, the OpenAI protocol."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from studies import change

from autoresearch.study.folder import StudyFolder

Answer = Callable[[dict[str, Any]], tuple[int, str]]
# Writes an answer, or what passes for one, byte by byte; the event is set when the server closes.
Reply = Callable[[BaseHTTPRequestHandler, threading.Event], None]
KEY = "secret-key"


class Endpoint:
    """POST /v1/chat/completions answered by `answer`, or, if there is one, by `reply`; remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.reply: Reply | None = None
        self._closed = threading.Event()
        self.answer: Answer = lambda request: (200, completion(change("lr", 0.004)))
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append(body)
                endpoint.keys.append(self.headers.get("Authorization"))
                endpoint.paths.append(self.path)
                if endpoint.reply:
                    with suppress(OSError):  # whoever asked has hung up
                        endpoint.reply(self, endpoint._closed)
                    return
                status, text = endpoint.answer(body)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def named_by_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """An endpoint that the environment names, and no proxy before it."""
    server = Endpoint()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("AUTORESEARCH_MODEL", "test/model")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
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
