"""Whether what an earlier deployment ran is still on the cluster: checked before a relaunch is submitted."""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bouchet_core.deployments import Deployment
from bouchet_core.errors import LaunchRefusedError, RemoteFileMissingError
from bouchet_core.provenance import LaunchPins

from bouchet_worker.context import WorkerContext
from bouchet_worker.scripts import output_errors_mapped, run_script

log = logging.getLogger(__name__)

SCRIPT = "probe_login_node.py"
# hexadecimal characters of a digest in messages
DIGEST_SHOWN = 12


@dataclass(frozen=True)
class PinnedFiles:
    """What probe_login_node.py reports about the pinned image and model."""

    image: Mapping[str, Any]
    # None where the model is not there
    model: Mapping[str, Any] | None


def check_pins(context: WorkerContext, record: Deployment) -> None:
    """Raise LaunchRefusedError where image or weights differ from the pinned ones.

    What cannot be read now is checked by the job. No scripts are uploaded for it, because a preview changes nothing:
    before the first launch of a new version there is no script to run, and nothing is checked.
    """
    pins = record.pins
    if pins is None:
        return
    try:
        files = _probe(context, record.model, pins)
    except RemoteFileMissingError:
        log.info("deployment %s: pins not checked, the job scripts are not on the cluster yet", record.id)
        return
    changes = find_changes(files, record.model, pins)
    if changes:
        raise LaunchRefusedError(
            f"deployment {pins.deployment} cannot be reproduced: {'; '.join(changes)}; or launch without --like"
        )


def _probe(context: WorkerContext, model: str, pins: LaunchPins) -> PinnedFiles:
    image = posixpath.join(context.site.images_dir, f"{pins.image}.sif")
    request = {
        "directories": [],
        "images": [image],
        "hashes": context.paths.file_hashes(),
        "models_dir": context.site.models_dir,
        "models": [],
        "weights": [[model, pins.model_revision]],
        "quota": [],
    }
    output = run_script(context, SCRIPT, request=request, stage=False)
    with output_errors_mapped(SCRIPT, output):
        # the script expands `~`, so the key may differ from the path in the request
        (found,) = output["images"].values()
        return PinnedFiles(found, output["weights"][model])


def find_changes(files: PinnedFiles, model: str, pins: LaunchPins) -> list[str]:
    """Return what differs from the pins, each with what to do about it. Pure."""
    found = (_image_change(files.image, pins), _model_change(files.model, model, pins))
    return [change for change in found if change]


def _image_change(image: Mapping[str, Any], pins: LaunchPins) -> str:
    if not image.get("exists"):
        return (
            f"the image {pins.image}.sif no longer exists (`bouchet image build {pins.image}` builds one with the same "
            "packages; then launch by model name)"
        )
    found = image.get("computed") or image.get("recorded")
    if found and found != pins.image_sha256:
        return (
            f"the image {pins.image}.sif was replaced: its sha256 is {found[:DIGEST_SHOWN]}..., "
            f"the deployment ran {pins.image_sha256[:DIGEST_SHOWN]}..."
        )
    return ""


def _model_change(found: Mapping[str, Any] | None, model: str, pins: LaunchPins) -> str:
    revision = pins.model_revision
    download = f"run `bouchet download {model}{f' --revision {revision}' if revision else ''}`"
    if not found:
        return f"the model {model} is no longer on the cluster ({download})"
    if revision and found.get("revision") != revision:
        return f"the model {model} is at commit {found.get('revision')}, the deployment ran {revision} ({download})"
    now, then = found.get("weights"), pins.weights
    if now and then is not None and now["how"] == then.how and now["digest"] != then.digest:
        digests = f"digest {now['digest'][:DIGEST_SHOWN]}..., then {then.digest[:DIGEST_SHOWN]}..."
        return f"files of the model {model} have changed ({digests})"
    return ""


def changed_arguments(then: Sequence[str], now: Sequence[str]) -> str:
    """Return how vLLM's arguments differ from those of the earlier launch, names aside; empty where they do not."""
    before, after = _options(then), _options(now)
    if not then or before == after:
        return ""
    removed = [" ".join(option) for option in before if option not in after]
    added = [" ".join(option) for option in after if option not in before]
    parts = [f"without {', '.join(removed)}"] if removed else []
    parts += [f"with {', '.join(added)}"] if added else []
    return f"this version of bouchet-llm starts vLLM {' and '.join(parts) or 'with its options in another order'}"


def _options(arguments: Sequence[str]) -> list[tuple[str, ...]]:
    """Return each option with its values, without the served names."""
    options: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--") or not options:
            options.append([argument])
        else:
            options[-1].append(argument)
    return [tuple(option) for option in options if option[0] != "--served-model-name"]
