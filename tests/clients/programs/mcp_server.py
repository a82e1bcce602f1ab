"""A small MCP server on its standard input and output: one tool, `tide`, which answers with a fixed text."""

from __future__ import annotations

import json
import sys
from typing import Any

ANSWER = "high water at noon"
TOOL = {
    "name": "tide",
    "description": "Say when the tide is high",
    "inputSchema": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a request."""
    if method == "initialize":
        about = {"capabilities": {"tools": {}}, "serverInfo": {"name": "tides", "version": "1"}}
        return {"protocolVersion": params["protocolVersion"], **about}
    if method == "tools/list":
        return {"tools": [TOOL]}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": ANSWER}]}
    return {}


def main() -> None:
    """Answer until the input ends; notifications have no answer."""
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request:
            result = answer(request["method"], request.get("params") or {})
            print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)


if __name__ == "__main__":
    main()
