"""A catalog entry for a model of the hub: GPUs, window, quantisation and parsers, with what fits where. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from bouchet_core.config.catalog import ModelEntry, Parallel
from bouchet_core.config.hub_models import GpuFit, HubModelError, ModelProposal
from bouchet_core.config.site import Site

from bouchet_worker.memory.architecture import Architecture, parse_architecture, whole_number
from bouchet_worker.memory.estimate import LaunchEstimate, ModelDescription
from bouchet_worker.memory.vllm_args import GIB, VllmArgs

from .parsers import choose_parsers

GPU_COUNTS = (1, 2, 4, 8, 16)
WINDOWS = (1048576, 524288, 262144, 131072, 65536, 40960, 32768, 16384, 8192, 4096, 2048)
# a coding agent's first request alone takes 20,000 tokens: fewer GPUs are preferred only above this
USEFUL_WINDOW = 40960
# of a job without a GPU
CPU_CACHE_BYTES = 1 << 28
CPU_WINDOW = 8192
CPU_ARGUMENTS = (
    "--enforce-eager",
    "--distributed-executor-backend=vllm.v1.executor.uniproc_executor.UniProcExecutor",
    f"--kv-cache-memory-bytes={CPU_CACHE_BYTES}",
)
CPU_ENV = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1"}
WEIGHTS = re.compile(r"\.(safetensors|bin|pt|pth|gguf)$")
IGNORED_FOLDERS = ("original/", "metal/", "onnx/", "openvino/", "coreml/")

Quant = Literal["fp8", "none"]


@dataclass(frozen=True)
class HubModel:
    """What inspect_hub.py printed."""

    name: str
    commit: str
    gated: bool
    files: Sequence[tuple[str, int]]
    config: Mapping[str, Any]
    template: str
    parameters: int | None

    @property
    def served(self) -> Sequence[tuple[str, int]]:
        """The files that a download takes: only safetensors where weights come in several formats."""
        kept = [(path, size) for path, size in self.files if not path.startswith(IGNORED_FOLDERS)]
        if not any(path.endswith(".safetensors") for path, _ in kept):
            return kept
        return [(p, size) for p, size in kept if p.endswith(".safetensors") or not WEIGHTS.search(p)]

    @property
    def weights_gib(self) -> float:
        """The size of the weights."""
        return sum(size for path, size in self.served if WEIGHTS.search(path)) / GIB

    @property
    def architecture_name(self) -> str:
        """The class that vLLM loads it with."""
        names = self.config.get("architectures")
        return str(names[0]) if isinstance(names, list) and names else ""


def propose_entry(model: HubModel, site: Site, known: frozenset[str]) -> ModelProposal:
    """Return the proposal for this site. known: what the pinned vLLM can load; empty: that is not known.

    Raises HubModelError for a model that cannot be served: no weights, or an unknown architecture.
    """
    check_servable(model, site, known)
    architecture = parse_architecture(model.config)
    cpu = site.default_image.startswith("cpu-")
    fits = tuple(cpu_fits(model, architecture, site) if cpu else gpu_fits(model, architecture, site))
    chosen = choose_fit(fits, site)
    return ModelProposal(
        model=model.name,
        commit=model.commit,
        gated=model.gated,
        bytes=sum(size for _, size in model.served),
        files=len(model.served),
        architecture=model.architecture_name,
        parameters=model.parameters,
        entry=make_entry(model, architecture, chosen, cpu=cpu),
        fits=fits,
        notes=tuple(notes(model, architecture, site, chosen, known)),
    )


def check_servable(model: HubModel, site: Site, known: frozenset[str]) -> None:
    """Raise HubModelError where vLLM could not load the model, whatever the GPUs."""
    name = model.architecture_name
    if not name:
        raise HubModelError(f"the config.json of {model.name} names no architecture, so vLLM cannot load it")
    if known and name not in known:
        image = site.image(site.default_image)
        version = f"vLLM {image.vllm} (image {image.pin})" if image else "the pinned vLLM"
        raise HubModelError(
            f"{version} does not know the architecture {name} of {model.name}; a newer image may: "
            "`bouchet image list` shows the pins, `default_image` in the site file chooses one"
        )
    if not model.weights_gib:
        raise HubModelError(f"{model.name} has no weights in a format that vLLM loads (safetensors or PyTorch files)")


def gpu_fits(model: HubModel, architecture: Architecture, site: Site) -> Iterator[GpuFit]:
    """Yield what fits on each number of GPUs, the site's usual type first."""
    types = sorted(site.gpu_memory_gib, key=lambda name: (name != site.gpu_type, -site.gpu_memory_gib[name]))
    heads = number_of(model.config, "num_attention_heads")
    most = max((p.gpus_per_node for p in site.partitions), default=8)
    for gpu_type in types:
        for gpus in (count for count in GPU_COUNTS if count <= most and not (heads and heads % count)):
            for quant in quantisations(architecture):
                yield fit_of(model, architecture, gpu_type, gpus, quant, site.gpu_memory_gib[gpu_type])


def quantisations(architecture: Architecture) -> Sequence[Quant]:
    """Return as it is first; a quantised checkpoint stays as it is."""
    return ("none",) if architecture.quantised else ("none", "fp8")


def fit_of(
    model: HubModel, architecture: Architecture, gpu_type: str, gpus: int, quant: Quant, gpu_gib: float
) -> GpuFit:
    """Return whether it fits these GPUs, with the longest window that does."""
    described = ModelDescription(model.name, architecture, catalog_gib=model.weights_gib)
    first = LaunchEstimate(
        described, VllmArgs(window=WINDOWS[-1], parallel=Parallel(tensor=gpus), fp8=quant == "fp8"), gpu_gib
    )
    fits = [
        estimate
        for window in windows_of(architecture)
        if (estimate := replace(first, args=replace(first.args, window=window))).fits
    ]
    best = fits[0] if fits else None
    weights = first.weights_gib
    return GpuFit(
        gpu_type=gpu_type,
        gpus=gpus,
        quant=quant,
        fits=best is not None,
        window=best.args.window if best else None,
        conversations=round(best.conversations, 1) if best and best.conversations is not None else None,
        weights_gib=round(weights, 1) if weights is not None else None,
    )


def windows_of(architecture: Architecture) -> list[int]:
    """Return the windows to try, the longest first: the model's own, and the usual ones below it."""
    longest = architecture.longest_window or USEFUL_WINDOW
    return [longest, *(window for window in WINDOWS if window < longest)]


def cpu_fits(model: HubModel, architecture: Architecture, site: Site) -> Iterator[GpuFit]:
    """Yield the one way to serve on a site whose image has no GPU."""
    window = min(architecture.longest_window or CPU_WINDOW, CPU_WINDOW)
    args = VllmArgs(window=window, parallel=Parallel(), cache_bytes=CPU_CACHE_BYTES, cpu=True)
    described = ModelDescription(model.name, architecture, catalog_gib=model.weights_gib)
    estimate = LaunchEstimate(described, args, None, site.memory_per_gpu_gib)
    yield GpuFit(
        gpu_type=site.gpu_type,
        gpus=1,
        quant="none",
        fits=estimate.fits,
        window=window if estimate.fits else None,
        weights_gib=round(model.weights_gib, 1),
    )


def choose_fit(fits: Sequence[GpuFit], site: Site) -> GpuFit | None:
    """Return the fewest GPUs of the site's usual type with a useful window; as it is rather than quantised."""
    usual = [fit for fit in fits if fit.fits and fit.gpu_type == site.gpu_type] or [fit for fit in fits if fit.fits]
    if not usual:
        return None
    longest = max(fit.window or 0 for fit in usual)
    useful = [fit for fit in usual if (fit.window or 0) >= min(USEFUL_WINDOW, longest)]
    return min(useful, key=lambda fit: (fit.gpus, fit.quant != "none", -(fit.window or 0)))


def make_entry(model: HubModel, architecture: Architecture, chosen: GpuFit | None, *, cpu: bool) -> ModelEntry:
    """Return the catalog entry."""
    parsers = choose_parsers(architecture.kind, model.template)
    window = (chosen.window if chosen else None) or min(architecture.longest_window or USEFUL_WINDOW, USEFUL_WINDOW)
    max_output = 32_000 if window >= 4 * 32_000 else max(window // 4, 256)
    fields: dict[str, Any] = {
        "alias": alias_of(model.name),
        "description": describe(model),
        "gpus": chosen.gpus if chosen else 1,
        "window": max(window, 256),
        "quant": chosen.quant if chosen else "none",
        "tool_parser": parsers.tools,
        "reasoning_parser": parsers.reasoning,
        "thinking": parsers.thinking,
        "vision": "vision_config" in model.config,
        "max_output": max_output,
        "weights_gib": max(round(model.weights_gib, 3 if model.weights_gib < 1 else 1), 0.001),
    }
    if cpu:
        fields |= {"parallel": "data", "extra_args": CPU_ARGUMENTS, "env": CPU_ENV}
    return ModelEntry(**fields)


def alias_of(name: str) -> str:
    """Return a short name for clients: `bouchet-` and the last part of the id."""
    last = re.sub(r"[^a-z0-9._-]+", "-", name.rpartition("/")[2].lower())
    return f"bouchet-{last}"[:60].strip("-._")


def describe(model: HubModel) -> str:
    """Return a few words: its size, and that it was added."""
    count = model.parameters
    size = "" if not count else (f"{count / 1e9:.3g}B" if count >= 1e9 else f"{count / 1e6:.0f}M")
    experts = number_of(model.config, "num_experts_per_tok")
    return " ".join(filter(None, (size, "MoE" if experts else "", "added from the hub")))


def number_of(config: Mapping[str, Any], name: str) -> int:
    """Return a whole number of a config.json, also of its text part; 0 without one."""
    text = config.get("text_config")
    values = (config.get(name), text.get(name) if isinstance(text, Mapping) else None)
    return next(filter(None, map(whole_number, values)), 0)


def notes(
    model: HubModel, architecture: Architecture, site: Site, chosen: GpuFit | None, known: frozenset[str]
) -> Iterator[str]:
    """Yield what the person has to know before saying yes."""
    if chosen is None and site.gpu_memory_gib:
        yield "it fits no GPUs of this site by the estimate; a launch will be refused with the numbers"
    elif chosen is None:
        yield "the site file has no gpu_memory_gib, so GPUs and window are not checked"
    if model.gated:
        yield "it is gated: downloads need a token whose owner accepted its terms (HF_TOKEN in .env)"
    if model.config.get("auto_map"):
        yield "it brings code of its own; if vLLM asks for it, add --trust-remote-code to extra_args after reading it"
    if not architecture.attention:
        yield f"the memory of {architecture.kind} models is estimated by their weights alone"
    if not known:
        yield "whether the pinned vLLM knows its architecture was not checked"
    if not model.template:
        yield "it has no chat template: chats need `chat_template`"
    elif choose_parsers(architecture.kind, model.template).tools is None:
        yield "its chat template has no tools, so clients cannot let it call any"
