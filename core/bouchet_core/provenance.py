"""What ran, and what it showed: the part of a job's record by which the same can be had again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from .values import FrozenModel


class SmokeCheck(FrozenModel):
    """One check of a smoke test. said: what was seen; of a failure a sentence that a person can act on."""

    result: Literal["ok", "failed", "not_tried"] = "not_tried"
    message: str = ""


class SmokeTest(FrozenModel):
    """What a model showed right after its start, asked as clients ask."""

    chat: SmokeCheck = Field(default=SmokeCheck(), description="a short answer")
    stream: SmokeCheck = Field(default=SmokeCheck(), description="a short answer piece by piece, to its proper end")
    tools: SmokeCheck = Field(default=SmokeCheck(), description="a tool call that the catalog's parser could read")
    count: SmokeCheck = Field(
        default=SmokeCheck(), description="the tokenizer's count of a prompt beside what vLLM charged for it"
    )
    window: SmokeCheck = Field(default=SmokeCheck(), description="the context window beside the one asked for")
    thinking: SmokeCheck = Field(
        default=SmokeCheck(), description="whether it thinks unasked just where the catalog says so"
    )
    took_s: float = 0.0

    @property
    def without_tools(self) -> str:
        """Why requests with tools cannot be served, empty where they can."""
        return self.tools.message if self.tools.result == "failed" else ""

    @property
    def words(self) -> str:
        """All that failed in one sentence, empty when nothing did."""
        parts = [f"ready without tools: {self.tools.message}"] if self.without_tools else []
        for name in ("chat", "stream", "count", "window", "thinking"):
            check: SmokeCheck = getattr(self, name)
            if check.result == "failed":
                parts.append(f"{name}: {check.message}")
        return "; ".join(parts)


class Weights(FrozenModel):
    """Which weights were served. Digests of one `how` can be compared, those of different ones cannot."""

    digest: str = Field(description="sha256 over all files' names, sizes and hashes")
    how: Literal["manifest", "hub", "headers"] = Field(
        description="where the files' hashes come from. manifest: whole contents, checked when they were downloaded, "
        "sizes and times unchanged since; hub: the names that the hub's own cache gives its files; "
        "headers: of configuration and tokenizer whole, of weights the safetensors headers alone"
    )
    files: int
    bytes: int
    folder: str = Field(default="", description="where they lay on the cluster")


class Software(FrozenModel):
    """How the job's vLLM was started, word by word, without any key."""

    container: tuple[str, ...] = Field(default=(), description="Apptainer's command line on the first node")
    environment: Mapping[str, str] = Field(
        default_factory=dict, description="of vLLM in the container, without the key"
    )
    cuda: str | None = Field(default=None, description="CUDA of the image; null in one without")
    python: str | None = None
    recipe_sha256: str | None = Field(
        default=None, description="of the image's definition, lock and pin, as its manifest says"
    )
    quant: str | None = Field(default=None, description="fp8: quantised at load; checkpoint: quantised already; none")


class LaunchPins(FrozenModel):
    """What a launch like an earlier one has to find again."""

    deployment: str = Field(description="the earlier one")
    image: str = Field(description="pin of the image")
    image_sha256: str
    vllm: str
    model_revision: str | None = None
    weights: Weights | None = None
    arguments: tuple[str, ...] = Field(default=(), description="what vLLM was given, as staged")
