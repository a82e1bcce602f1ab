"""A fake vLLM with the endpoints that the worker uses: health, model list and smoke test.

It answers as vLLM does, or with deviations. Those are attributes that a test sets: `state` (up, down, draining),
`warning` (the guard's), `call` (how a tool call is returned: read, forced, text, prose, broken, long, refused;
unsteady: broken at temperature 0), `stream` (whole, early, error, slow), `window`, `thoughts` (none, `reasoning` or
text), `counted`, and `chat_status`. `received` lists the paths and bodies of all POST requests.

With `proof_port`, the port of its job, /health proves that it holds `key` as the guard does, unless it is an
`impostor`. `unproved` lists the requests with a key on connections on which there was no proof before.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

from bouchet_core.keys import NONCE_HEADER, PROOF_HEADER

PROMPT_TOKENS = 21
CALL = {"name": "report_status", "arguments": '{"status": "ok"}'}


class WorkerVLLM(BaseHTTPRequestHandler):
    """The handler of one server. Make it with worker_vllm, which gives every test attributes of its own."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # the API key; empty: none is required
    key = ""
    state, warning = "up", ""
    version = "0.32.0"
    call = "read"
    stream = "whole"
    window = 4096
    thoughts = ""
    counted = PROMPT_TOKENS
    chat_status = 200
    # requests that wait, in /metrics
    waiting = 0
    received: list[tuple[str, dict[str, Any]]]
    proof_port: int | None = None
    impostor = False
    unproved: list[str]
    # of this connection
    _has_proved = False
    # set by a test in which every chat has to wait
    gate: threading.Event | None = None

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send_json({"up": 200, "down": 500, "draining": 503}[self.state], {})
        elif not self._is_authorized():
            self._send_json(401, {})
        elif self.path == "/metrics":
            self._send_json(200, f"vllm:num_requests_waiting {self.waiting}\nvllm:num_requests_running 16\n")
        elif self.path == "/v1/models":
            self._send_json(200, {"data": [{"id": "m", "max_model_len": self.window}]})
        else:
            self._send_json(200, {"version": self.version})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.received.append((self.path, body))
        if not self._is_authorized():
            self._send_json(401, {"error": {"message": "Unauthorized"}})
        elif self.path == "/tokenize":
            self._send_json(200, {"count": self.counted})
        elif self.path == "/v1/messages":
            self._stream()
        elif body.get("tools"):
            self._tool_call(body["tool_choice"] != "auto", varied=body["temperature"] > 0)
        else:
            self._chat()

    def _is_authorized(self) -> bool:
        if "Authorization" in self.headers and not self._has_proved:
            self.unproved.append(self.path)
        return not self.key or self.headers["Authorization"] == f"Bearer {self.key}"

    def _chat(self) -> None:
        if self.gate is not None:
            self.gate.wait(20)
        if self.chat_status != 200:
            self._send_json(self.chat_status, {"error": {"message": "no chat template is defined"}})
            return
        text = "<think>hm</think>OK" if self.thoughts == "text" else "OK"
        message = {"role": "assistant", "content": text, "tool_calls": []}
        if self.thoughts == "reasoning":
            message["reasoning"] = "hm"
        self._send_message(message, "stop")

    def _tool_call(self, forced: bool, varied: bool) -> None:
        correct = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]}
        if self.call == "read" or (self.call == "forced" and forced) or (self.call == "unsteady" and varied):
            self._send_message(correct, "tool_calls")
        elif self.call in ("broken", "unsteady"):
            function = {"name": "report_status", "arguments": '{"status": '}
            self._send_message({**correct, "tool_calls": [{"function": function}]}, "tool_calls")
        elif self.call == "text":
            text = f'<tool_call>\n{{"name": "report_status", "arguments": {CALL["arguments"]}}}\n</tool_call>'
            self._send_message({"role": "assistant", "content": text, "tool_calls": []}, "stop")
        elif self.call == "refused" and forced:
            self._send_json(400, {"error": {"message": "tool_choice is not supported"}})
        else:
            finish_reason = "length" if self.call == "long" else "stop"
            self._send_message({"role": "assistant", "content": "Status is fine.", "tool_calls": []}, finish_reason)

    def _send_message(self, message: dict[str, Any], finish_reason: str) -> None:
        choice = {"index": 0, "message": message, "finish_reason": finish_reason}
        self._send_json(200, {"choices": [choice], "usage": {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 2}})

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

    def _send_json(self, status: int, body: dict[str, Any] | str) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        if self.state == "draining":
            self.send_header("x-bouchet-state", "draining")
        if self.warning:
            self.send_header("x-bouchet-warning", self.warning)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.path == "/health" and self.proof_port is not None and not self.impostor:
            message = f"bouchet-proof {self.proof_port} {self.headers[NONCE_HEADER]}".encode()
            self.send_header(PROOF_HEADER, hmac.new(self.key.encode(), message, hashlib.sha256).hexdigest())
            self._has_proved = True
        self.end_headers()
        self.wfile.write(data)


def worker_vllm(**attributes: object) -> type[WorkerVLLM]:
    """Return a handler class with these attributes, for tests.fakes.slurm_gateway.serve_http."""
    return type("ConfiguredVLLM", (WorkerVLLM,), {"received": [], "unproved": [], **attributes})
