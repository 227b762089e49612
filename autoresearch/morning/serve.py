"""The live page of a study, its facts as JSON, pause and resume, and its database in Datasette, on one port."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import re
import secrets
import signal
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autoresearch.errors import UserError
from autoresearch.facts import to_bytes
from autoresearch.morning.sql_bounds import BOUNDS, Bounds
from autoresearch.study.folder import StudyFolder
from autoresearch.study.lock import lock_holder
from autoresearch.study.store.live import QUESTIONS, snapshot, version

TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,}")  # what a cookie and an address hold as it stands, and nobody guesses
MOST_BYTES = 1000  # of a POST
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
EVENTS = {"pause": "paused from the page", "run": "resumed from the page"}


def serve(
    home: Path,
    name: str,
    host: str = "127.0.0.1",
    port: int = 8642,
    token: str | None = None,
    note: Callable[[str], None] = partial(print, flush=True),
) -> None:
    """Serves the study until Ctrl-C or SIGTERM. Port 0 takes a free one; `token` defaults to AUTORESEARCH_TOKEN, and
    beyond loopback to one that is made here. Raises UserError for a bad host, port or token."""
    token = token or os.environ.get("AUTORESEARCH_TOKEN") or None
    if token and not TOKEN.fullmatch(token):
        raise UserError("the token needs 16 or more of the characters A-Z a-z 0-9 . _ ~ -: set AUTORESEARCH_TOKEN anew")
    with _listen(host, port) as listener:
        address, port = listener.getsockname()[:2]
        if not ip_address(address).is_loopback:
            token = token or secrets.token_urlsafe(24)
        app = make_app(home, name, token)
        reach = socket.gethostname() if ip_address(address).is_unspecified else host
        url = f"http://{f'[{reach}]' if ':' in reach else reach}:{port}/"
        note(f"{name} is served at {url}{f'?token={token}' if token else ''} and its database at {url}sql/")
        note("Ctrl-C ends it")
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # it would write the token down
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=3,
        )
        _run(uvicorn.Server(config), listener)


def make_app(home: Path, name: str, token: str | None = None) -> Starlette:
    """The application for one study. Without a token it answers only to a loopback name, which is for servers that
    listen there alone. Raises UserError where there is no such study."""
    live = Live(home, name)

    @asynccontextmanager
    async def closing(app: Starlette) -> AsyncIterator[None]:
        yield
        live.close()

    return Starlette(
        routes=[
            Route("/", live.get_page),
            Route("/facts.json", live.get_facts),
            Route("/cluster.json", live.get_cluster),
            Route("/trials/{number}.json", live.get_trial),
            Route("/control", live.post_control, methods=["POST"]),
            Route("/favicon.ico", _no_icon),
            Mount("/sql", _datasette(live.path / "study.db", name, live.read_only)),
        ],
        middleware=[Middleware(Guard, token=token), Middleware(GZipMiddleware, minimum_size=1000, compresslevel=6)],
        exception_handlers={UserError: _unavailable, sqlite3.Error: _unavailable},
        lifespan=closing,
    )


class Live:
    """The study as the page sees it, in one thread of its own: a SQLite connection belongs to the thread it is from."""

    def __init__(self, home: Path, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, "study")
        try:
            self._folder = self._thread.submit(StudyFolder, home, name).result()
        except UserError:
            self._thread.shutdown()
            raise
        self.path, self.read_only = self._folder.path, self._folder.store.read_only
        self._seen: tuple[int, int | None] | None = None
        self._facts = b""

    def close(self) -> None:
        self._thread.submit(self._folder.store.close).result()
        self._thread.shutdown()

    async def get_page(self, request: Request) -> Response:
        from autoresearch.morning.report.page import page

        return HTMLResponse(await self._call(page, live=True), headers={"Cache-Control": "no-store"})

    async def get_facts(self, request: Request) -> Response:
        body = await self._call(self._read_facts)
        tag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'  # weak: the same facts, gzipped or not
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        known = [known.strip() for known in request.headers.get("if-none-match", "").split(",")]
        if tag in known:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)

    async def get_cluster(self, request: Request) -> Response:
        """Apart from the facts: it changes every other second, and costs next to nothing."""
        from autoresearch.morning.report.cluster import cluster_facts

        body = to_bytes(await self._call(cluster_facts, self.path))
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

    async def get_trial(self, request: Request) -> Response:
        number = request.path_params["number"]
        found = await self._call(self._read_trial, int(number)) if re.fullmatch("[0-9]{1,9}", number) else None
        if found is None:
            return _line(404, f"this study has no trial {number[:20]}")
        return Response(found, media_type="application/json", headers={"Cache-Control": "private, no-cache"})

    async def post_control(self, request: Request) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return _line(403, "only this study's own page may steer it")
        if request.headers.get("x-autoresearch") != "1":
            return _line(403, "send the header X-Autoresearch: 1")
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _line(415, "send JSON (Content-Type: application/json)")
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                return _line(413, "that is more than a control takes")
        try:
            control = json.loads(body)["control"]
            EVENTS[control]
        except (ValueError, TypeError, KeyError, RecursionError):
            return _line(400, 'send {"control": "pause"} or {"control": "run"}')
        if not await self._call(self._steer, control):
            return _line(409, "this study was imported: there is nothing to pause or to run")
        return Response(to_bytes({"control": control}), media_type="application/json")

    async def _call(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *arguments, **named))

    def _read_facts(self) -> bytes:
        from autoresearch.morning.report.facts import facts

        # Asked for before the facts are read: what is written meanwhile is then seen as a change the next time.
        now = version(self._folder.store), lock_holder(self.path / "runner.lock")
        if now != self._seen:
            with snapshot(self._folder.store):
                self._facts = to_bytes(facts(self._folder))
            self._seen = now
        return self._facts

    def _read_trial(self, number: int) -> bytes | None:
        from autoresearch.morning.report.detail import detail

        with snapshot(self._folder.store):
            if self._folder.store.trial(number) is None:
                return None
            return to_bytes(detail(self._folder, number))

    def _steer(self, control: Literal["pause", "run"]) -> bool:
        if self._folder.store.study()["source"] is not None:
            return False
        self._folder.store.set_control(control, EVENTS[control])
        self._seen = None  # a connection's own writes do not count as a change
        return True


class Guard:
    """Lets nobody in without the token; where there is none, nobody who came by another name than a loopback one
    (a hostile page may point its own name at this address). What another page asks for is refused, but for the empty
    page at /: a question in SQL costs time, whoever reads the answer. Nothing but /control takes anything but GET."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await (self._answer(Request(scope)) or self.app)(scope, receive, send_with_headers)

    def _answer(self, request: Request) -> Response | None:
        """A refusal, or the way in; None if the request may pass."""
        if request.scope["path"] != "/" and _is_of_another_page(request):
            return _line(403, "another page asks for this: open it from the study's own page, or by its address")
        if self.token is None:
            if not _is_loopback(request.headers.get("host", "")):
                return _line(403, "without a token this server answers to localhost and 127.0.0.1 only")
        else:
            cookie = f"autoresearch_{(request.scope.get('server') or ('', 0))[1]}"  # cookies do not tell ports apart
            if request.method == "GET" and self._fits(request.query_params.get("token")):
                return self._welcome(request, cookie)
            kind, _, bearer = request.headers.get("authorization", "").partition(" ")
            if not ((kind.lower() == "bearer" and self._fits(bearer)) or self._fits(request.cookies.get(cookie))):
                refusal = _line(401, "a token is needed: open the address that `autoresearch serve` printed")
                refusal.headers["WWW-Authenticate"] = "Bearer"
                return refusal
        if request.method not in ("GET", "HEAD") and request.scope["path"] != "/control":
            return _line(405, "this is for reading only")
        return None

    def _fits(self, given: str | None) -> bool:
        assert self.token
        return given is not None and hmac.compare_digest(given.encode(errors="replace"), self.token.encode())

    def _welcome(self, request: Request, cookie: str) -> Response:
        """To the same page, with the token in a cookie instead of in the address."""
        rest = urlencode([(name, value) for name, value in request.query_params.multi_items() if name != "token"])
        path = "/" + request.scope["raw_path"].decode("ascii").partition("?")[0].lstrip("/\\")
        answer = RedirectResponse(f"{path}?{rest}" if rest else path, 303, headers={"Cache-Control": "no-store"})
        assert self.token
        answer.set_cookie(cookie, self.token, httponly=True, samesite="strict")
        return answer


def _datasette(database: Path, name: str, fixed: bool) -> ASGIApp:
    """Datasette on the one file, opened read-only (mode=ro), with links that begin with /sql/; fixed: nothing may be
    written beside it either."""
    from datasette.app import Datasette
    from datasette.plugins import pm

    # Else each refused query goes to the terminal with a traceback and all local variables.
    pm.get_plugin("datasette.handle_exception").rich = None
    if not pm.has_plugin("bounds"):
        pm.register(Bounds, "bounds")
    if re.search("[?#%]", str(database)):  # it puts the path into an SQLite URI as it stands
        raise UserError(f"{database}: a study cannot be served from a folder with ?, # or % in its name; move it")
    return Datasette(
        files=[] if fixed else [str(database)],
        immutables=[str(database)] if fixed else [],
        metadata={"title": name, "databases": {database.stem: {"queries": QUESTIONS}}},
        settings={"base_url": "/sql/", "allow_download": False, "default_cache_ttl": 0, **BOUNDS},
    ).app()


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: choose one from 1 to 65535, or 0 for any that is free")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family)
    except socket.gaierror as error:
        raise UserError(f"--host {host}: no such address ({error.strerror})") from None
    except OSError as error:
        raise UserError(
            f"cannot listen on {host} port {port} ({os.strerror(error.errno or 0).lower()}): "
            "choose another --port (0: any that is free) or --host"
        ) from None


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    """Until a signal. uvicorn raises the signal again when it is done; heard here, that is an end and no error."""

    def leave(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_loopback(host: str) -> bool:
    """Whether a Host header names this machine to itself."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def _is_of_another_page(request: Request) -> bool:
    """Whether a page of another origin asks, in a browser; a program and an address typed by hand say nothing of it."""
    if site := request.headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    page = request.headers.get("origin") or request.headers.get("referer")  # an older browser
    return page is not None and urlsplit(page).netloc != request.headers.get("host")


def _line(status: int, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status, headers={"Cache-Control": "no-store"})


async def _no_icon(request: Request) -> Response:
    """Datasette's pages name no icon, so that a browser asks for this one and would complain."""
    return Response(status_code=204)


async def _unavailable(request: Request, error: Exception) -> Response:
    return _line(503, f"the study cannot be read now: {error}")
