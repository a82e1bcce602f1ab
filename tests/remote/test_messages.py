"""The job scripts' messages to people, compared with tests/contracts/golden/messages/remote.txt.

Run with UPDATE_GOLDEN=1 to write the file again after a message has changed.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from build_output import STEPS, explain_failure
from download_errors import DownloadError, explain
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from image_file import check_image
from image_job import check_records, check_space, choose_source
from job_files import JobRefusedError, describe_disk_error, read_spec
from model_folder import find_damage, purge_warning
from network import socket_problem
from provenance import driver_problem
from vllm_job import check_model

from tests.remote.compute_node import REPOSITORY, SCRIPTS, make_spec, write_image

GOLDEN = REPOSITORY / "tests" / "contracts" / "golden" / "messages" / "remote.txt"
OUTPUT = (
    "bouchet: refused pin.yaml has `oci: x`",
    "tar: write error: No space left on device",
    "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES",
    "ERROR: No matching distribution found for torch==2.13.0+cpu",
    "dial tcp: lookup registry on 127.0.0.11:53: i/o timeout",
    "FATAL:   fakeroot is not available",
    "FATAL:   While performing build: odd",
)
REQUEST = {"endpoint": "http://hub", "revision": "v9", "models_dir": "/m", "token": None}
# text that `finish` and `step` of the shell scripts print, with their variables
SHELL_MESSAGE = re.compile(r'\b(?:finish \S+ \S+|finish \S+ "[^"]+"|step) "([^"]+)"|\bprepared="((?:[^"\\]|\\\n)+)"')


def test_messages_match_golden_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    sections = {
        "image": image_messages(tmp_path),
        "model": model_messages(tmp_path),
        "node": node_messages(),
        "image job": image_job_messages(tmp_path),
        "image build: steps": (description for _, description in STEPS),
        "image build: failures": build_messages(),
        "download": download_messages(),
        "shell scripts": shell_messages(),
    }
    text = "\n".join("\n".join([f"# {title}", *messages, ""]) for title, messages in sections.items())
    text = text.replace(str(tmp_path), "ROOT").replace(os.uname().nodename.split(".")[0], "NODE")
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def refusal(action: Callable[..., object], *arguments: Any) -> str:
    with pytest.raises(JobRefusedError) as caught:
        action(*arguments)
    return str(caught.value)


def image_messages(root: Path) -> Iterator[str]:
    spec = make_spec(root, root / "pin.sif")
    yield refusal(check_image, spec)
    Path(spec["image"]).write_bytes(b"other")
    yield refusal(check_image, spec)
    Path(f"{spec['image']}.sha256").write_text(f"{'a' * 64}  pin.sif\n")
    yield refusal(check_image, spec)
    yield refusal(read_spec, str(root))
    (root / "spec.json").write_text('{"version": 99}')
    yield refusal(read_spec, str(root))


def model_messages(root: Path) -> Iterator[str]:
    spec = {**make_spec(root, root / "pin.sif"), "models_dir": str(root)}
    yield refusal(check_model, spec)
    folder = root / "Org" / "Name"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("[]")
    yield refusal(check_model, spec)
    yield find_damage(str(folder))
    (folder / "REVISION").write_text("badcafe")
    yield refusal(check_model, {**spec, "model_revision": "c0ffee"})
    os.utime(folder / "config.json", (0, 0))
    yield purge_warning(str(folder), 30, 25 * 86_400)


def node_messages() -> Iterator[str]:
    facts = {"cuda": "13.0", "min_driver": "580"}
    yield driver_problem("/i/pin.sif", facts, "570.1", "node7")
    yield driver_problem("/i/pin.sif", facts, None, "node7")
    yield str(socket_problem("socket", "/tmp/" + "x" * 110))
    yield describe_disk_error(OSError(errno.ENOSPC, "No space left on device", "/m/x"))
    yield describe_disk_error(OSError(errno.EACCES, "Permission denied", "/m/x"))


def image_job_messages(root: Path) -> Iterator[str]:
    image = write_image(root / "tiny.sif")
    spec = {"pin": "tiny", "image": str(image), "images_dir": str(root), "image_gib": 0, "build_gib": 0}
    yield refusal(check_space, {**spec, "build_dir": str(root / "none")})
    text = refusal(check_space, {**spec, "build_dir": str(root), "build_gib": 10**6})
    yield re.sub(r"has [\d.]+ GiB free", "has N GiB free", text)
    yield refusal(choose_source, {**spec, "source": str(root), "oci": None})
    (root / "tiny.manifest.json").write_text(json.dumps({"sif_sha256": "b" * 64}))
    yield refusal(check_records, {**spec, "image_sha256": None}, Path(f"{image}.sha256").read_text().split()[0])


def build_messages() -> Iterator[str]:
    for line in OUTPUT:
        yield ": ".join(explain_failure([line], "squash", "tiny", None))
    yield ": ".join(explain_failure(["ImportError: libcuda.so.1: cannot open"], "test", "tiny", None))
    yield ": ".join(explain_failure([], "base", "tiny", "/staged"))


def download_messages() -> Iterator[str]:
    request: dict[str, Any] = {**REQUEST, "model": "Org/Name"}
    for error in (
        *(hub_error(kind, 404) for kind in (GatedRepoError, RevisionNotFoundError, RepositoryNotFoundError)),
        *(hub_error(HfHubHTTPError, status) for status in (401, 403, 418, 503)),
        httpx.ConnectError("refused"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EROFS, "Read-only file system", "/m/x"),
        ValueError("odd"),
        DownloadError("busy", "as it is"),
    ):
        found = explain(error, "Org/Name", request)
        yield f"{found.kind}{' (retryable)' if found.retryable else ''}: {found}"
        with_token = explain(error, "Org/Name", {**request, "token": "hf_x"})
        if str(with_token) != str(found):
            yield f"{found.kind} with a token: {with_token}"


def hub_error(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    response: Any = httpx.Response(status, request=httpx.Request("GET", "http://hub/x"))
    return kind(f"status {status}", response=response)


def shell_messages() -> Iterator[str]:
    for path in sorted(SCRIPTS.glob("*.s*")):
        for found in SHELL_MESSAGE.finditer(path.read_text().replace("\\\n", "")):
            yield f"{path.name}: {found[1] or found[2]}"
