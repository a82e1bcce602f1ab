"""Provenance: what a job ran and how its smoke test went, so that a launch can be reproduced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from .values import FrozenModel


class SmokeCheck(FrozenModel):
    """One check of a smoke test. message: what was seen; for a failure also what to do."""

    result: Literal["ok", "failed", "not_tried"] = "not_tried"
    message: str = ""


class SmokeTest(FrozenModel):
    """Results of the requests that are sent to a model right after its start."""

    chat: SmokeCheck = Field(default=SmokeCheck(), description="a short answer")
    stream: SmokeCheck = Field(default=SmokeCheck(), description="a short streamed answer, to its proper end")
    tools: SmokeCheck = Field(default=SmokeCheck(), description="a tool call that the catalog's parser could read")
    count: SmokeCheck = Field(
        default=SmokeCheck(), description="the tokenizer's count of a prompt compared with vLLM's usage count"
    )
    window: SmokeCheck = Field(default=SmokeCheck(), description="the context window compared with the requested one")
    thinking: SmokeCheck = Field(
        default=SmokeCheck(), description="whether it thinks by default exactly if the catalog says so"
    )
    took_s: float = 0.0

    @property
    def without_tools(self) -> str:
        """Why requests with tools cannot be served, empty if they can."""
        return self.tools.message if self.tools.result == "failed" else ""

    @property
    def summary(self) -> str:
        """All failures in one sentence, empty if there are none."""
        parts = [f"ready without tools: {self.tools.message}"] if self.without_tools else []
        for name in ("chat", "stream", "count", "window", "thinking"):
            check: SmokeCheck = getattr(self, name)
            if check.result == "failed":
                parts.append(f"{name}: {check.message}")
        return "; ".join(parts)


class Weights(FrozenModel):
    """Which weights were served. Only digests of the same `how` can be compared."""

    digest: str = Field(description="sha256 over all files' names, sizes and hashes")
    how: Literal["manifest", "hub", "headers"] = Field(
        description="where the files' hashes come from. manifest: whole contents, verified at the download, "
        "sizes and times unchanged since; hub: the names that the hub's own cache gives its files; "
        "headers: configuration and tokenizer whole, of weights only the safetensors headers"
    )
    files: int
    bytes: int
    folder: str = Field(default="", description="their folder on the cluster")


class Software(FrozenModel):
    """How the job's vLLM was started, without any key."""

    container: tuple[str, ...] = Field(default=(), description="Apptainer's command line on the first node")
    environment: Mapping[str, str] = Field(
        default_factory=dict, description="environment of vLLM in the container, without the key"
    )
    cuda: str | None = Field(default=None, description="CUDA version of the image; null in an image without CUDA")
    python: str | None = None
    recipe_sha256: str | None = Field(
        default=None, description="hash of the image's definition, lock and pin, from its manifest"
    )
    quant: str | None = Field(default=None, description="fp8: quantised at load; checkpoint: quantised already; none")


class LaunchPins(FrozenModel):
    """What a relaunch must find unchanged."""

    deployment: str = Field(description="id of the earlier deployment")
    image: str = Field(description="pin of the image")
    image_sha256: str
    vllm: str
    model_revision: str | None = None
    weights: Weights | None = None
    arguments: tuple[str, ...] = Field(default=(), description="vLLM's arguments, as staged")
