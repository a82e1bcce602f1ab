"""Core's messages to people, compared with tests/contracts/golden/messages/core.txt.

Run with UPDATE_GOLDEN=1 to write the file again after a message has changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from bouchet_core import errors
from bouchet_core.config.catalog import ModelEntry, load_catalog
from bouchet_core.config.site import load_site
from bouchet_core.deployments import LaunchRequest
from bouchet_core.errors import BouchetError
from bouchet_core.gateway_client import GatewayClient
from bouchet_core.images import load_pin
from bouchet_core.placement import UserUsage, candidates
from bouchet_core.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "contracts" / "golden" / "messages" / "core.txt"
# arguments of every error with a message of its own; the others take the whole message
SAMPLES: dict[type[BouchetError], tuple[object, ...]] = {
    errors.ConfigurationError: ("models.yaml", "unknown field 'windw'; did you mean 'window'?", 4),
    errors.UnknownModelError: ("Qwen3-32", ("Qwen/Qwen3-32B",), ("Qwen/Qwen3-32B",)),
    errors.UnknownDeploymentError: ("x7f",),
    errors.UnknownDownloadError: ("Qwen/Qwen3-32B",),
    errors.UnknownPinError: ("cuda13", ("cpu-0.32.0", "cuda13-0.32.0")),
    errors.UnknownImageJobError: ("q2m4x7kfh3ab",),
    errors.ImageInUseError: ("cuda13-0.32.0", ("mine", "yours")),
    errors.ImageMissingError: ("cuda13-0.32.0",),
    errors.OtherWorkInProgressError: ("Qwen/Qwen3-32B", "download q2m4x7kfh3ab", "revision v2.0"),
    errors.NameTakenError: ("mine", "x7f"),
    errors.NoFreeSlotError: (8,),
    errors.IllegalTransitionError: ("x7f", "ended", "ready"),
    errors.UnknownOrphanError: (900,),
    errors.OrphanRefusedError: (900, "its files have no record.json"),
    errors.StaleRecordError: ("x7f",),
    errors.UnreadableRecordError: ("deployment", "x7f", "phase: Input should be 'ready'"),
    errors.KeyNameTakenError: ("alice",),
    errors.UnknownKeyError: ("alice",),
    errors.StoreUnavailableError: ("Connection refused",),
    errors.StoreRefusedError: ("HSET", "No permissions to access a key"),
    errors.RemoteCommandError: (("squeue", "--me"), 1, "slurm_load_jobs error: Unable to contact slurm controller"),
    errors.UntrustedFolderError: ("~/bouchet-llm/remote",),
    errors.OutputTooLongError: (("squeue", "--me"),),
    errors.SlurmOutputError: ("squeue", "JOBID|STATE"),
}
LAUNCHES: tuple[dict[str, object], ...] = (
    {"gpus": 64},
    {"gpus": 12},
    {"gpus": 3, "nodes": 2},
    {"gpus": 10, "nodes": 10},
    {"gpus": 4, "partition": "gpu_devel"},
    {"time": "0"},
    {"time": "30-00:00:00"},
    {"time": "7:00:00", "partition": "gpu_devel"},
    {"partition": "gpu_a100"},
    {"partition": "scavenge_gpu"},
    {"partition": "priority_gpu"},
    {},
    {"gpus": 2},
)
USAGES: tuple[dict[str, UserUsage], ...] = (
    {},
    {"gpu_devel": UserUsage(submitted=1, running=1, gpus=1)},
    {"gpu_h200": UserUsage(submitted=6, running=6, gpus=15)},
)


def test_messages_are_the_golden_ones(tmp_path: Path) -> None:
    sections = {
        "errors": list(error_messages()),
        "placement": list(placement_messages()),
        "files": list(file_messages(tmp_path)),
        "gateway client": list(gateway_messages()),
    }
    text = "\n".join("\n".join([f"# {title}", *messages, ""]) for title, messages in sections.items())
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def all_errors(base: type[BouchetError] = BouchetError) -> Iterator[type[BouchetError]]:
    """Yield every error class of the tree in the order of the module."""
    yield base
    for kind in base.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield from all_errors(kind)


def error_messages() -> Iterator[str]:
    for error in all_errors():
        yield f"{error.kind}: {error(*SAMPLES.get(error, ('MESSAGE',)))}"
    yield str(errors.ImageInUseError("cuda13-0.32.0", ["mine"]))
    yield str(errors.UnknownModelError("gpt", ["a/b", "c/d"]))


def placement_messages() -> Iterator[str]:
    site, catalog = load_site(ROOT / "sites" / "bouchet.yaml"), load_catalog(ROOT / "models.yaml")
    entry = catalog.find("Qwen/Qwen3-32B")[1]
    for options in LAUNCHES:
        for usage in USAGES[: 1 if options else 3]:
            yield f"{options or 'default'}: {placed(entry, options, usage)}"
    none_automatic = site.model_copy(
        update={"partitions": [p.model_copy(update={"auto": False}) for p in site.partitions]}
    )
    yield raised(lambda: candidates(entry, LaunchRequest(model="m"), none_automatic, {}))


def placed(entry: ModelEntry, options: dict[str, object], usage: dict[str, UserUsage]) -> str:
    site = load_site(ROOT / "sites" / "bouchet.yaml")
    request = LaunchRequest.model_validate({"model": "m", **options})
    try:
        return " | ".join(p.why for p in candidates(entry, request, site, usage))
    except BouchetError as exc:
        return str(exc)


def file_messages(folder: Path) -> Iterator[str]:
    catalog, pin = folder / "models.yaml", folder / "some-1.0"
    for text in (
        "models: [\n",
        "models:\n  a/b: {alias: x, window: 4096}\n  a/b: {alias: y, window: 4096}\n",
        "models:\n  a/b: {alias: x, windw: 4096}\n",
        "models:\n  a/b: {alias: claude-x, window: 4096}\n",
        "models:\n  a/b: {alias: x, window: 4096}\n  a/c: {alias: x, window: 4096}\n",
        "default: a/z\nmodels:\n  a/b: {alias: x, window: 4096}\n",
    ):
        catalog.write_text(text)
        yield raised(lambda: load_catalog(catalog)).replace(str(folder), "FOLDER")
    yield raised(lambda: load_site(folder / "nowhere.yaml")).replace(str(folder), "FOLDER")
    pin.mkdir()
    for text in ("oci: vllm/vllm-openai:v1\n", ""):
        (pin / "pin.yaml").write_text(f"name: some-1.0\nvllm: 1.0\ntorch: 2.0\n{text}")
        yield raised(lambda: load_pin(pin)).replace(str(folder), "FOLDER")
    environment = {"SECRETS_DIR": str(folder)}
    yield raised(lambda: ServiceSettings.from_environment(environment)).replace(str(folder), "FOLDER")
    (folder / "redis_password").write_text("\n")
    yield raised(lambda: ServiceSettings.from_environment(environment)).replace(str(folder), "FOLDER")
    (folder / "redis_password").write_text("x")
    for name, value in (("REDIS_PORT", "x"), ("LOG_LEVEL", "LOUD")):
        yield raised(lambda: ServiceSettings.from_environment({**environment, name: value}))  # noqa: B023


def gateway_messages() -> Iterator[str]:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    def time_out(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("timed out")

    replies: tuple[Callable[[httpx.Request], httpx.Response], ...] = (
        refuse,
        time_out,
        lambda request: httpx.Response(200, json={"state": "sleeping"}),
        lambda request: httpx.Response(500, text="<html>"),
        lambda request: httpx.Response(500, json={}),
        lambda request: httpx.Response(503, json={"kind": "tunnel_down", "detail": "DETAIL"}),
    )
    for reply in replies:
        with GatewayClient("http://gateway", "token", httpx.MockTransport(reply)) as client:
            yield raised(client.status)


def raised(call: Callable[[], object]) -> str:
    with pytest.raises(BouchetError) as caught:
        call()
    return str(caught.value)


def test_docstring_of_errors_draws_the_whole_tree() -> None:
    assert errors.__doc__ is not None
    drawn = set(re.findall(r"\b[A-Z][A-Za-z]+(?=\s|$)", errors.__doc__))
    assert {error.__name__ for error in all_errors()} <= drawn


def test_error_kinds_are_unique() -> None:
    kinds = [error.kind for error in all_errors()]
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("error", list(all_errors()))
def test_error_has_a_docstring_and_a_one_line_message(error: type[BouchetError]) -> None:
    assert error.__doc__
    assert "\n" not in str(error(*SAMPLES.get(error, ("MESSAGE",))))
