"""What the hub says of a model that is not on the cluster: `python3 inspect_hub.py`, its request as JSON on stdin.

in:  {"endpoint", "model", "revision", "token": text or null, "proxy": URL or null}
out: {"commit", "gated": bool, "files": [[path, bytes], ...], "config": its config.json without long lists,
      "template": its chat template, "parameters": number or null}
or   {"problem": unknown_model | gated | unknown_revision | no_config | hub_unreachable, "detail": sentence}

The token comes on standard input, because every user of the login node can read argv. Python 3.6, standard library.
"""

import http.client
import json
import sys
import urllib.error
import urllib.request
from typing import Any, Dict, List, Optional
from urllib.parse import quote, urlsplit

from inspect_model import drop_long_lists

TIMEOUT_S = 20
MAX_BYTES = 32 << 20
# characters of a template that are enough to see how it writes tool calls and thinking
MAX_TEMPLATE = 200000
UNKNOWN = "there is no model %s on the hub (%s): check the spelling (org/name)"
PRIVATE = UNKNOWN + ", or set a token if it is private (HF_TOKEN in .env)"
GATED = "%s is gated: accept its terms on its page on the hub, then set a token that may read it (HF_TOKEN in .env)"
UNREACHABLE = "the login node cannot reach the hub (%s): %s; set hub_endpoint or download_proxy in the site file"
NO_CONFIG = (
    "%s has no config.json, so it is no model that vLLM loads from the hub's format; look for the same model under "
    "another name (a repository of adapters, GGUF or ONNX files has none)"
)


class HubProblemError(Exception):
    """The hub does not give what is needed; the message is for people."""

    def __init__(self, problem: str, message: str) -> None:
        self.problem = problem
        super().__init__(message)


class NoRedirectToken(urllib.request.HTTPRedirectHandler):
    """Follows redirects without the token: the content network behind the hub must not get it."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Return the next request, without the token where it goes to another host."""
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            following.remove_header("Authorization")
        return following


def as_object(value: Any) -> Dict[str, Any]:
    """Return an object of JSON; an empty one in the place of anything else."""
    return value if isinstance(value, dict) else {}


class HubReader:
    """Reads small files of one model."""

    def __init__(self, request: Dict[str, Any]) -> None:
        self.request, self.model = request, request["model"]
        self.endpoint = request["endpoint"].rstrip("/")
        handlers: List[Any] = [NoRedirectToken()]
        if request.get("proxy"):
            handlers.append(urllib.request.ProxyHandler(dict.fromkeys(("http", "https"), request["proxy"])))
        self.opener = urllib.request.build_opener(*handlers)

    def read(self, path: str) -> Optional[bytes]:
        """Return the content, None where there is no such file. Raises HubProblemError."""
        headers = {"User-Agent": "bouchet-llm"}
        if self.request.get("token"):
            headers["Authorization"] = "Bearer " + self.request["token"]
        request = urllib.request.Request(self.endpoint + path, headers=headers)
        try:
            with self.opener.open(request, None, TIMEOUT_S) as got:
                return bytes(got.read(MAX_BYTES))
        except urllib.error.HTTPError as exc:
            if exc.headers.get("X-Error-Code") == "EntryNotFound":
                return None
            raise self.explain(exc) from exc
        except (OSError, http.client.HTTPException) as exc:
            reason = getattr(exc, "reason", exc)
            raise HubProblemError("hub_unreachable", UNREACHABLE % (self.endpoint, reason)) from exc

    def explain(self, exc: urllib.error.HTTPError) -> HubProblemError:
        """Return the problem that an HTTP status means."""
        code, has_token = exc.headers.get("X-Error-Code", ""), bool(self.request.get("token"))
        if code == "GatedRepo" or (exc.code == 403 and not code):
            return HubProblemError("gated", GATED % self.model)
        if code == "RevisionNotFound":
            message = "%s has no revision %s; leave out --revision for the newest"
            return HubProblemError("unknown_revision", message % (self.model, self.request["revision"]))
        if code == "RepoNotFound" or exc.code in (401, 404):
            unknown = UNKNOWN if has_token else PRIVATE
            return HubProblemError("unknown_model", unknown % (self.model, self.endpoint))
        message = "the hub (%s) answered %d; try again later"
        return HubProblemError("hub_unreachable", message % (self.endpoint, exc.code))

    def read_json(self, path: str) -> Any:
        """Return a parsed file, None where it is missing, no JSON, or nested without end."""
        try:
            return json.loads((self.read(path) or b"").decode("utf-8"))
        except (ValueError, RecursionError):
            return None

    def inspect(self) -> Dict[str, Any]:
        """Return what the module's documentation lists."""
        place = "/api/models/%s/revision/%s?blobs=true" % (quote(self.model), quote(self.request["revision"], safe=""))
        info = self.read_json(place)
        if not isinstance(info, dict) or not info.get("sha"):
            raise HubProblemError("hub_unreachable", "%s answered with something else than a model" % self.endpoint)
        content = "/%s/resolve/%s/" % (quote(self.model), info["sha"])
        config = self.read_json(content + "config.json")
        if not isinstance(config, dict):
            raise HubProblemError("no_config", NO_CONFIG % self.model)
        return {
            "commit": info["sha"],
            "gated": bool(info.get("gated")),
            "files": [[one["rfilename"], one.get("size") or 0] for one in info.get("siblings") or ()],
            "config": drop_long_lists(config),
            "template": self.template(content)[:MAX_TEMPLATE],
            "parameters": as_object(info.get("safetensors")).get("total"),
        }

    def template(self, content: str) -> str:
        """Return the chat template: a file of its own, or in the tokenizer's configuration."""
        own = self.read(content + "chat_template.jinja")
        if own:
            return own.decode("utf-8", "replace")
        found = as_object(self.read_json(content + "tokenizer_config.json")).get("chat_template") or ""
        if isinstance(found, dict):
            found = [{"template": one} for one in found.values()]
        if isinstance(found, list):
            found = "\n".join(str(one.get("template", "")) for one in found if isinstance(one, dict))
        return str(found)


def inspect_hub(request: Dict[str, Any]) -> Dict[str, Any]:
    """Return what the hub says of the model, or why it says nothing."""
    try:
        return HubReader(request).inspect()
    except HubProblemError as exc:
        return {"problem": exc.problem, "detail": str(exc)}


if __name__ == "__main__":
    json.dump(inspect_hub(json.load(sys.stdin)), sys.stdout)
