"""Whether what an earlier deployment ran is still on the cluster: asked before a launch like it is submitted."""

from __future__ import annotations

import json
import logging
import posixpath
from collections.abc import Sequence
from typing import Any

from bouchet_core.deployments import Deployment
from bouchet_core.errors import GatewayError, LaunchRefusedError, RemoteFileMissingError
from bouchet_core.provenance import LaunchPins

from bouchet_worker.context import WorkerContext

from .job_files import COMPLETE_MARKER

log = logging.getLogger(__name__)

PROGRAM = "probe_login_node.py"
TIMEOUT_S = 60.0
SHORT = 12


def refuse_other_than_pinned(context: WorkerContext, record: Deployment) -> None:
    """LaunchRefusedError where image or weights are not those that ran. What cannot be learnt is left to the job to check.

    Nothing is staged for it: a preview before the first launch of a new version finds no program of ours to ask.
    """
    pins = record.pins
    if pins is None:
        return
    try:
        seen = _look(context, record, pins)
    except RemoteFileMissingError:
        log.info("deployment %s: no program of ours lies on the cluster yet to compare with %s", record.id, pins.image)
        return
    gone = differences(seen, record.model, pins)
    if gone:
        what = "; ".join(gone)
        raise LaunchRefusedError(
            f"what deployment {pins.deployment} ran is not there any more: {what}; or launch without --like"
        )


def _look(context: WorkerContext, record: Deployment, pins: LaunchPins) -> dict[str, Any]:
    folder = context.layout.scripts(context.scripts.digest)
    context.gateway.get(f"{folder}/{COMPLETE_MARKER}", max_bytes=1)
    asked = {
        "directories": [],
        "images": [posixpath.join(context.site.images_dir, f"{pins.image}.sif")],
        "hashes": f"{context.site.root}/cache/hashes",
        "models_dir": context.site.models_dir,
        "models": [],
        "weights": [[record.model, pins.model_revision]],
        "quota": [],
    }
    text = context.gateway.run(["python3", f"{folder}/{PROGRAM}"], stdin=json.dumps(asked), timeout_s=TIMEOUT_S).stdout
    try:
        said: dict[str, Any] = json.loads(text)
        return {"image": next(iter(said["images"].values())), "model": said["weights"][record.model]}
    except (ValueError, KeyError, StopIteration, AttributeError) as exc:
        raise GatewayError(f"cannot read what {PROGRAM} printed: {text[:200]!r}") from exc


def differences(seen: dict[str, Any], model: str, pins: LaunchPins) -> list[str]:
    """What is not as it was, each with what to do. Pure. seen: image and model, as probe_login_node.py says them."""
    return [words for words in (_image(seen["image"], pins), _model(seen["model"], model, pins)) if words]


def _image(image: dict[str, Any], pins: LaunchPins) -> str:
    name = f"the image {pins.image}.sif"
    again = f"`bouchet image build {pins.image}`"
    if not image.get("exists"):
        return f"{name} is gone ({again} makes one of the same packages, which then is launched by name)"
    found = image.get("computed") or image.get("recorded")
    if found and found != pins.image_sha256:
        return f"{name} was replaced: its sha256 is {found[:SHORT]}..., it ran {pins.image_sha256[:SHORT]}..."
    return ""


def _model(seen: dict[str, Any] | None, model: str, pins: LaunchPins) -> str:
    revision = pins.model_revision
    fetch = f"`bouchet download {model}{f' --revision {revision}' if revision else ''}` fetches it"
    if not seen:
        return f"the model {model} is gone; {fetch}"
    if revision and seen.get("revision") != revision:
        return f"the model {model} is commit {seen.get('revision')} now, it ran {revision}; {fetch}"
    now, then = seen.get("weights"), pins.weights
    if now and then is not None and now["how"] == then.how and now["digest"] != then.digest:
        digests = f"{now['digest'][:SHORT]}..., then {then.digest[:SHORT]}..."
        return f"files of the model {model} have changed (digest {digests})"
    return ""


def changed_arguments(then: Sequence[str], now: Sequence[str]) -> str:
    """How what vLLM is given differs from what it was given, names aside; empty where it does not."""
    before, after = _options(then), _options(now)
    if not then or before == after:
        return ""
    gone = [" ".join(option) for option in before if option not in after]
    new = [" ".join(option) for option in after if option not in before]
    parts = [f"without {', '.join(gone)}"] if gone else []
    parts += [f"with {', '.join(new)}"] if new else []
    return f"this version of bouchet-llm starts vLLM {' and '.join(parts) or 'with its options in another order'}"


def _options(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Each option with its values."""
    options: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not options:
            options.append([word])
        else:
            options[-1].append(word)
    return [tuple(option) for option in options if option[0] != "--served-model-name"]
