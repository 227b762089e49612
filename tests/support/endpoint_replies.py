"""What an endpoint may answer instead of a chat completion, or inside one: each was seen, or is one step further."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from http.server import BaseHTTPRequestHandler
from typing import Any

from endpoint import KEY, Reply
from sample_study import HOSTILE
from studies import change

GOOD = change("lr", 0.004)
OTHER = change("lr", 0.005)
TAGGED = change("lr", 0.004, "ends with </think> and <think>")
DRIP_SECONDS = 0.01


def body(data: bytes | str, status: int = 200, **headers: str) -> Reply:
    """A whole answer; `headers` with _ for -."""
    whole = data.encode() if isinstance(data, str) else data

    def reply(handler: BaseHTTPRequestHandler, closed: threading.Event) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(whole)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(whole)

    return reply


def said(content: Any = GOOD, finish: Any = "stop", usage: Any = None, **message: Any) -> Reply:
    """A chat completion with any JSON for its content; `message` adds to it."""
    return body(completion_of({"role": "assistant", "content": content, **message}, finish, usage))


def completion_of(message: Any, finish: Any = "stop", usage: Any = None) -> str:
    found: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
    return json.dumps(found | ({} if usage is None else {"usage": usage}))


def event(delta: Any, **choice: Any) -> str:
    """One of a stream."""
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, **choice}]})}\n\n"


def called(arguments: str, index: int = 0) -> dict[str, Any]:
    """A piece of what a tool is called with."""
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}


def streamed(*deltas: Any, finish: str = "stop") -> Reply:
    """A whole stream, with usage at its end."""
    usage = json.dumps({"choices": [], "usage": {"prompt_tokens": 700, "completion_tokens": 30}})
    events = "".join(event(delta) for delta in deltas) + event({}, finish_reason=finish)
    return body(f"{events}data: {usage}\n\ndata: [DONE]\n\n", Content_Type="text/event-stream")


def counted(prompt_tokens: Any, completion_tokens: Any = 30) -> Reply:
    return said(usage={"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens})


def raw(data: bytes, *, drip: bytes = b"", then_wait: bool = False) -> Reply:
    """Bytes on the wire; then the last of them again and again, or silence, until the other side has had enough."""

    def reply(handler: BaseHTTPRequestHandler, closed: threading.Event) -> None:
        handler.wfile.write(data)
        while (drip or then_wait) and not closed.wait(DRIP_SECONDS):
            handler.wfile.write(drip)
        handler.close_connection = True

    return reply


def endless(first: bytes, piece: bytes) -> Reply:
    """As much as the other side takes, as fast as it takes it."""

    def reply(handler: BaseHTTPRequestHandler, closed: threading.Event) -> None:
        handler.wfile.write(first)
        while not closed.is_set():
            handler.wfile.write(piece)

    return reply


def endless_gzip() -> Reply:
    packed = zlib.compressobj(1, wbits=31)
    head = packed.compress(b'{"choices": "') + packed.flush(zlib.Z_SYNC_FLUSH)
    piece = packed.compress(b" " * 2**20) + packed.flush(zlib.Z_FULL_FLUSH)
    return endless(HEAD + b"Content-Encoding: gzip\r\n\r\n" + head, piece)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = completion_of({"role": "assistant", "content": GOOD}).encode()
LOGIN = "<!DOCTYPE html><html><head><title>Sign in</title></head><body>Who are you?</body></html>"
TEXT_PART = {"type": "text", "text": GOOD}
EVENT = event({"content": GOOD})
CALL = {"id": "1", "type": "function", "function": {"name": "propose", "arguments": GOOD}}

# The model's answer, whatever the rails will say of it: reply, and the text that is kept.
ANSWERS: dict[str, tuple[Reply, str]] = {
    "as it should be": (said(), GOOD),
    "a list of text parts": (said([TEXT_PART]), GOOD),
    "text in two parts": (said([{"type": "text", "text": GOOD[:9]}, {"type": "text", "text": GOOD[9:]}]), GOOD),
    "thoughts, then text": (said([{"type": "thinking", "thinking": [{"text": "Hm."}]}, TEXT_PART]), GOOD),
    "parts that are strings": (said([GOOD]), GOOD),
    "an object": (said(json.loads(GOOD)), GOOD),
    "an empty list": (said([]), "[]"),
    "parts without text": (said([{"type": "image_url"}]), '[{"type": "image_url"}]'),
    "null": (said(None), ""),
    "nothing": (said(""), ""),
    "no content at all": (body(completion_of({"role": "assistant"})), ""),
    "a number": (said(17), "17"),
    "a boolean": (said(True), "true"),
    "not a number": (said(float("nan")), "NaN"),
    "a lone surrogate": (said("\ud800 {}"), "{}"),
    "a lone surrogate in a part": (said([{"type": "text", "text": "\udfff"}]), "?"),
    "NUL bytes": (said("a\0b"), "a\0b"),
    "escape sequences": (said("\x1b[31m{}\u202e"), "{}"),
    "white space": (said(" \n" * 500), " \n" * 500),
    "a tool call": (said(None, "tool_calls", tool_calls=[CALL]), GOOD),
    "a tool call of two": (said("", "tool_calls", tool_calls=[CALL, {"id": "2"}]), GOOD),
    "a tool call with an object": (said(None, function_call={"name": "f", "arguments": json.loads(GOOD)}), GOOD),
    "an old function call": (said(None, "function_call", function_call=CALL["function"]), GOOD),
    "tool calls that are none": (said("", tool_calls=[{"function": 7}], function_call="f"), ""),
    "thoughts beside it": (said(GOOD, reasoning_content="Let me think."), GOOD),
    "thoughts alone": (said(None, reasoning=GOOD, reasoning_content=GOOD), ""),
    "parts that are thoughts alone": (said([{"type": "reasoning", "text": GOOD}]), ""),
    "thoughts before it": (said(f"<think>\n{OTHER}\n</think>\n\n{GOOD}"), GOOD),
    "thoughts before a tool call": (said(f"<think>{OTHER}</think>", tool_calls=[CALL]), GOOD),
    "thoughts twice": (said(f"<think>{OTHER}</think> <think>{OTHER}</think>{GOOD}"), GOOD),
    "thoughts that nobody opened": (said(f"Let me try {OTHER}. No.\n</think>\n{GOOD}"), GOOD),
    "thoughts that nobody closed": (said(f"<think>Let me try {OTHER}"), ""),
    "a reason that names the tag": (said(TAGGED), TAGGED),
    "fenced, with prose": (said(f"Here it is:\n```json\n{GOOD}\n```\nIt should help {{a bit}}."), GOOD),
    "the same twice": (said(f"{GOOD} So: {json.dumps(json.loads(GOOD), indent=1)}"), GOOD),
    "two that differ": (said(f"{GOOD} or {OTHER}"), f"{GOOD} or {OTHER}"),
    "a stream": (streamed({"content": GOOD[:9]}, {"content": GOOD[9:]}), GOOD),
    "streamed thoughts": (streamed({"reasoning": "a"}, {"content": "<thi"}, {"content": f"nk></think>{GOOD}"}), GOOD),
    "a stream of a tool call": (streamed(called(GOOD[:9]), called(GOOD[9:]), called(OTHER, 1)), GOOD),
    "a stream with nulls": (streamed({"content": None}, {}, {"content": [TEXT_PART]}), GOOD),
    "a stream with comments": (body(f": wait\r\n\r\nevent: x\r\n{EVENT}data: [DONE]\r\n\r\ndata: {{"), GOOD),
    "a stream that breaks off": (body(event({"content": GOOD[:9]})), GOOD[:9]),
    "a refusal": (said(None, refusal="I cannot help with that."), ""),
    "filtered": (said("", "content_filter"), ""),
    "a finish_reason that is none": (said(GOOD, {"why": []}), GOOD),
    "twenty million bytes": (said("x" * 20_000_000), "x" * 2**16),
    "usage of text": (counted("many", "few"), GOOD),
    "usage of objects": (counted({}, []), GOOD),
    "usage beyond SQLite": (counted(2**70, 2**63), GOOD),
    "usage below zero": (counted(-1, -(2**70)), GOOD),
    "usage with fractions": (counted(0.5, float("inf")), GOOD),
    "usage of booleans": (counted(True, False), GOOD),
    "usage that is a text": (said(usage="none"), GOOD),
    "usage that is a list": (said(usage=[700, 30]), GOOD),
    "usage that is null": (body(completion_of({"content": GOOD}) [:-1] + ', "usage": null}'), GOOD),
    "the wrong content type": (body(WHOLE, Content_Type="text/html"), GOOD),
    "no content type": (body(WHOLE, Content_Type=""), GOOD),
    "a byte order mark": (body(b"\xef\xbb\xbf" + WHOLE), GOOD),
    "a byte that is no UTF-8": (body(WHOLE.replace(b"because", b"so\xff")), GOOD.replace("because", "so\ufffd")),
    "gzip": (body(gzip.compress(WHOLE), Content_Encoding="gzip"), GOOD),
    "chunks": (raw(CHUNKED + chunk(WHOLE[:50]) + chunk(WHOLE[50:]) + chunk(b"")), GOOD),
    "a second choice": (body('{"choices": [{"message": {"content": "one"}}, {"message": {"content": "two"}}]}'), "one"),
    "its key": (said(f"The key is {KEY}."), "The key is [secret]."),
}  # fmt: skip

# No answer: reply, and what the note says of it.
NO_ANSWERS: dict[str, tuple[Reply, str]] = {
    "an empty body": (body(""), "something else than a chat completion: nothing"),
    "JSON null": (body("null"), "no message in its answer: null"),
    "a JSON list": (body("[]"), "no message"),
    "a JSON text": (body('"hello"'), "no message"),
    "an empty object": (body("{}"), "no message"),
    "no choices": (body('{"choices": []}'), "no message"),
    "choices that are an object": (body('{"choices": {"message": {}}}'), "no message"),
    "a choice that is null": (body('{"choices": [null]}'), "no message"),
    "a message that is null": (body('{"choices": [{"message": null}]}'), "no message"),
    "a message that is a text": (body('{"choices": [{"message": "hello"}]}'), "no message"),
    "an error with status 200": (body('{"error": {"message": "overloaded"}}'), "answers with an error: .*overloaded"),
    "an error that is a text": (body('{"error": "no such model"}'), "answers with an error: no such model"),
    "a login page": (body(LOGIN, Content_Type="text/html"), "a web page.*is the address right.*ends in /v1"),
    "a login page that says it is JSON": (body("\n " + LOGIN), "a web page.*is the address right"),
    "plain text": (body("OK", Content_Type="text/plain"), "something else than a chat completion: OK"),
    "a stream of nothing": (body('data: {"choices": []}\n\n', Content_Type="text/event-stream"), "no message"),
    "a stream of an error": (body(f'{EVENT}data: {{"error": "overloaded"}}\n\n'), "error: overloaded"),
    "a stream of half an event": (body(EVENT + 'data: {"choices'), "something else"),
    "a stream of too many events": (body("data: {}\n" * 100_001), "a stream of over 100,000 events"),
    "a stream of other things": (body("data: 7\ndata: []\ndata: {\"choices\": [{\"delta\": 7}]}\n"), "no message"),
    "half of a JSON": (body(WHOLE[:60]), "something else"),
    "JSON a hundred thousand deep": (body("[" * 100_000), "something else"),
    "a number of many digits": (body('{"choices": ' + "9" * 5000 + "}"), "something else"),
    "noise": (body(bytes(range(256)) * 9), "something else"),
    "less than announced": (raw(HEAD + b"Content-Length: 5000\r\n\r\n" + WHOLE), "closed"),
    "a chunk cut off": (raw(CHUNKED + chunk(WHOLE)[:70]), "closed"),
    "a chunk that is none": (raw(CHUNKED + b"zzz\r\n" + WHOLE), "ProtocolError"),
    "gzip that is none": (body(WHOLE, Content_Encoding="gzip"), "DecodingError"),
    "no HTTP": (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "ProtocolError"),
    "nothing at all": (raw(b""), "disconnected"),
    "a head without end": (endless(HEAD, b"X-More: " + b"x" * 2**16 + b"\r\n"), "ProtocolError|no whole answer"),
    "chunks without end": (endless(CHUNKED, chunk(b" " * 2**20)), "over 32.0 MiB"),
    "gzip without end": (endless_gzip(), "over 32.0 MiB"),
    "a redirect": (body("", 302, Location="http://example.org/login"), "elsewhere, to http://example.org/login"),
    "a redirect with a body": (body("moved", 307, Location="/v2/chat"), "elsewhere, to /v2/chat"),
    "a redirect to nowhere": (body("", 301), "elsewhere, to nowhere"),
    "status 204": (raw(b"HTTP/1.1 204 No Content\r\n\r\n"), "something else"),
    "status 400": (body('{"error": {"message": "bad"}}', 400), "status 400: bad"),
    "status 400 with an error that is a text": (body('{"error": "bad"}', 400), "status 400: .*bad"),
    "status 400 in words": (body("bad", 400, Content_Type="text/plain"), "status 400: bad"),
    "status 400 in no text": (body("bad", 400, Content_Type="text/plain; charset=zip"), "status 400: bad"),
    "status 422 with a detail": (body('{"detail": [{"msg": "bad"}]}', 422), "status 422: .*bad"),
    "status 401": (body('{"error": {"message": "invalid key"}}', 401), "Authentication.*invalid key"),
    "status 401 with the key in it": (body(json.dumps({"error": {"message": f"wrong key {KEY}"}}), 401), "wrong key"),
    "status 403 with the key in it": (body(f"Bearer {KEY} may not", 403), "status 403"),
    "status 404": (body('{"error": {"message": "no such model"}}', 404), "no such model"),
    "status 404 as a web page": (body(LOGIN, 404, Content_Type="text/html"), "status 404: a web page"),
    "status 429": (body('{"error": {"message": "slow down"}}', 429), "slow down"),
    "status 429 for an hour": (body("", 429, Retry_After="3600"), "status 429: nothing said"),
    "status 500": (body("{}", 500), "status 500"),
    "status 503": (body("no upstream", 503, Retry_After="3600"), "status 503: no upstream"),
    "status 599 without end": (endless(b"HTTP/1.1 599 No\r\n\r\n", b"x" * 2**20), "over 32.0 MiB"),
    "status 999": (raw(b"HTTP/1.1 999 What\r\n\r\n"), "status 999"),
    "an error with the key in it": (body(json.dumps({"error": f"what is {KEY}?"})), "what is .secret.?"),
    "a web page with the key in it": (body(f"<p>{KEY}</p>"), "a web page"),
    "a hostile error": (body(json.dumps({"error": {"message": f"no: {HOSTILE}"}}), 400), "no: .*<img src=x"),
    "a hostile text": (body(f"no: {HOSTILE}"), "a chat completion: no: .*<img src=x"),
}  # fmt: skip

# No answer in time, however long one waits.
LATE: dict[str, Reply] = {
    "silence": raw(b"", then_wait=True),
    "a head and silence": raw(CHUNKED, then_wait=True),
    "a dripping body": raw(CHUNKED, drip=chunk(b" ")),
    "a dripping body of a known length": raw(HEAD + b"Content-Length: 1000000\r\n\r\n", drip=b" "),
    "a dripping head": raw(HEAD + b"X-More: ", drip=b"x"),
    "a dripping redirect": raw(CHUNKED.replace(b"200 OK", b"302 No\r\nLocation: /"), drip=chunk(b" ")),
    "a dripping error": raw(CHUNKED.replace(b"200 OK", b"500 No"), drip=chunk(b" ")),
    "dripping gzip": raw(CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"), drip=chunk(b"\0")),
    "interim answers for ever": raw(b"", drip=b"HTTP/1.1 102 Processing\r\n\r\n"),
}  # fmt: skip
