"""A small model server of others: plain HTTP, its own key, its own models. Every answer repeats the last message."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class ModelServer:
    """What the server serves, and what it was asked: (method, path, authorization, body)."""

    models: list[dict[str, Any]]
    key: str = ""
    has_messages: bool = True
    vllm: str = ""
    # answers every request with this page instead
    page: str = ""
    asked: list[tuple[str, str, str | None, Any]] = field(default_factory=list)

    def generations(self) -> list[Any]:
        """Return the bodies of the requests for an answer; probes have none."""
        return [body for method, _, _, body in self.asked if method == "POST" and body]

    def keys(self) -> set[str | None]:
        """Return what was sent as authorization, None where nothing was."""
        return {authorization for _, _, authorization, _ in self.asked}

    def answer(self, method: str, path: str, authorization: str | None, body: Any) -> tuple[int, Any]:
        """Return status and JSON of the answer."""
        self.asked.append((method, path, authorization, body))
        if self.key and authorization != f"Bearer {self.key}":
            return 401, {"error": {"message": "wrong key"}}
        if (method, path) == ("GET", "/v1/models"):
            return 200, {"object": "list", "data": self.models}
        if (method, path) == ("GET", "/version") and self.vllm:
            return 200, {"version": self.vllm}
        is_chat, is_messages = path == "/v1/chat/completions", path == "/v1/messages" and self.has_messages
        if method != "POST" or not (is_chat or is_messages):
            return 404, {"error": {"message": "no such path"}}
        if not body.get("messages"):
            return 400, {"error": {"message": "messages: missing"}}
        if body["model"] not in [model["id"] for model in self.models]:
            return 404, {"error": {"message": f"no model {body['model']}"}}
        return 200, chat_answer(body) if is_chat else message_answer(body)


def chat_answer(body: Any) -> dict[str, Any]:
    """Return an answer of OpenAI's API."""
    message = {"role": "assistant", "content": last_text(body)}
    return {
        "id": "chat-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def chat_stream(answer: dict[str, Any], body: Any) -> bytes:
    """Return a chat's answer as OpenAI streams it: a word an event, and the counts where they were asked for."""
    head = {key: answer[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    choice = answer["choices"][0]
    words = (choice["message"]["content"] or "").split(" ")
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": word if number == 0 else f" {word}"}, None) for number, word in enumerate(words) if word]
    deltas += [({"tool_calls": [piece]}, None) for piece in _call_pieces(choice["message"].get("tool_calls") or ())]
    chunks = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]}
        for delta, end in [*deltas, ({}, choice["finish_reason"])]
    ]
    if (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({**head, "choices": [], "usage": answer["usage"]})
    events = [json.dumps(chunk) for chunk in chunks]
    return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()


def _call_pieces(calls: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield calls of tools as they are streamed: the name, then the arguments in pieces."""
    for index, call in enumerate(calls):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        yield {"index": index, "id": call["id"], "type": "function", "function": {"name": name, "arguments": ""}}
        for start in range(0, len(arguments), 4):
            yield {"index": index, "function": {"arguments": arguments[start : start + 4]}}


def message_answer(body: Any) -> dict[str, Any]:
    """Return an answer of Anthropic's API."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": last_text(body)}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }


def last_text(body: Any) -> str:
    """Return the text of the last message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


@contextmanager
def serving(server: ModelServer, port: int, certificate: Path | None = None) -> Iterator[None]:
    """Serve on all addresses at that port; with a file that holds certificate and key, over TLS."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer("GET", None)

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("content-length", 0)))
            self._answer("POST", json.loads(data or b"{}"))

        def _answer(self, method: str, body: Any) -> None:
            status, answer = server.answer(method, self.path, self.headers.get("authorization"), body)
            is_stream = status == 200 and isinstance(body, dict) and body.get("stream") and "choices" in answer
            data = server.page.encode() if server.page else json.dumps(answer).encode()
            data = chat_stream(answer, body) if is_stream else data
            kind = "text/event-stream" if is_stream else "application/json"
            self.send_response(200 if server.page else status)
            self.send_header("content-type", "text/html" if server.page else kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("0.0.0.0", port), Handler)
    http.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def make_certificate(folder: Path) -> Path:
    """Make a certificate without any use elsewhere, and its key, in one file."""
    path = folder / "server.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    argv += ["-subj", "/CN=a-colleague", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(argv, check=True, capture_output=True)
    path.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return path
