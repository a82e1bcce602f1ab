"""A small real server that answers a smoke test as vLLM does, or with one oddity.

Oddities, names of attributes that a test sets: `call` (how a tool call comes: read, forced, text, prose, broken, long,
refused; stumbling: broken unless asked warmly), `stream` (whole, early, error, slow), `window`, `thoughts` (in no
place, `reasoning` or text), `counted`, and `chat_status`. `asked` lists the paths and bodies received.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

CHARGED = 21
CALL = {"name": "report_status", "arguments": '{"status": "ok"}'}


class OddVllm(BaseHTTPRequestHandler):
    """Subclass it, so that every test has attributes of its own."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    key = ""
    healthy = True
    call = "read"
    stream = "whole"
    window = 4096
    thoughts = ""
    counted = CHARGED
    chat_status = 200
    asked: list[tuple[str, dict[str, Any]]]
    # set by a test that wants every chat to wait
    gate: threading.Event | None = None

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self._json(200 if self.healthy else 500, {})
        elif self.path == "/v1/models":
            self._json(200, {"data": [{"id": "m", "max_model_len": self.window}]})
        else:
            self._json(200, {"version": "0.32.0"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        if self.key and self.headers["Authorization"] != f"Bearer {self.key}":
            self._json(401, {"error": {"message": "UnauthorizedError"}})
        elif self.path == "/tokenize":
            self._json(200, {"count": self.counted})
        elif self.path == "/v1/messages":
            self._stream()
        elif body.get("tools"):
            self._tool_call(body["tool_choice"] != "auto", warm=body["temperature"] > 0)
        else:
            self._chat()

    def _chat(self) -> None:
        if self.gate is not None:
            self.gate.wait(20)
        if self.chat_status != 200:
            self._json(self.chat_status, {"error": {"message": "no chat template is defined"}})
            return
        text = "<think>hm</think>OK" if self.thoughts == "text" else "OK"
        message = {"role": "assistant", "content": text, "tool_calls": []}
        if self.thoughts == "reasoning":
            message["reasoning"] = "hm"
        self._answer(message, "stop")

    def _tool_call(self, forced: bool, warm: bool) -> None:
        made = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]}
        if self.call == "read" or (self.call == "forced" and forced) or (self.call == "stumbling" and warm):
            self._answer(made, "tool_calls")
        elif self.call in ("broken", "stumbling"):
            function = {"name": "report_status", "arguments": '{"status": '}
            self._answer({**made, "tool_calls": [{"function": function}]}, "tool_calls")
        elif self.call == "text":
            text = f'<tool_call>\n{{"name": "report_status", "arguments": {CALL["arguments"]}}}\n</tool_call>'
            self._answer({"role": "assistant", "content": text, "tool_calls": []}, "stop")
        elif self.call == "refused" and forced:
            self._json(400, {"error": {"message": "tool_choice is not supported"}})
        else:
            ending = "length" if self.call == "long" else "stop"
            self._answer({"role": "assistant", "content": "Status is fine.", "tool_calls": []}, ending)

    def _answer(self, message: dict[str, Any], ending: str) -> None:
        choice = {"index": 0, "message": message, "finish_reason": ending}
        self._json(200, {"choices": [choice], "usage": {"prompt_tokens": CHARGED, "completion_tokens": 2}})

    def _stream(self) -> None:
        events: list[dict[str, Any]] = [{"type": "message_start"}, {"type": "content_block_delta"}]
        if self.stream == "error":
            events.append({"type": "error", "error": {"message": "EngineDeadError"}})
        elif self.stream == "whole":
            events.append({"type": "message_stop"})
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events:
            if self.stream == "slow":
                time.sleep(0.2)
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
        self.close_connection = True

    def _json(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def odd_vllm(**oddities: object) -> type[OddVllm]:
    """A server class with these oddities, for tests.fakes.slurm_gateway.serve_http."""
    return type("Odd", (OddVllm,), {"asked": [], **oddities})
