"""The catalog entry that is proposed for a model of the hub, on sites with and without GPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from bouchet_core.config.catalog import CatalogDocument
from bouchet_core.config.hub_models import HubModelError, ModelProposal, entry_block, free_alias
from bouchet_core.config.site import Site, load_site
from bouchet_worker.hub.inspect import known_architectures
from bouchet_worker.hub.parsers import choose_parsers
from bouchet_worker.hub.propose import HubModel, propose_entry
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.memory.model_configs import CONFIGS
from tests.worker.scenario import REPOSITORY

PINS = REPOSITORY / "apptainer" / "pins"
GIB = 1 << 30
PERSON = {"BOUCHET_PROJECT_DIR": "/p/x", "BOUCHET_SCRATCH_DIR": "/s/x"}
SITES = [load_site(REPOSITORY / "sites" / f"{name}.yaml", PERSON) for name in ("bouchet", "demo")]
TOOLS = "{% if tools %}<tool_call>{% endif %}"


# what some config.json has in the place of a number or an object
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**31), 10**31), st.floats(), st.text(max_size=3), st.lists(st.none()),
    st.sampled_from([{}, {"factor": "4"}, {"quant_method": None}, {"quant_method": "awq", "bits": "4"}, [{"a": 1}]]),
    st.dictionaries(st.sampled_from(["factor", "quant_method", "config_groups", "num_hidden_layers"]), st.integers()),
)  # fmt: skip


def hub_model(name: str, gib: float, template: str = TOOLS, **config: Any) -> HubModel:
    """Return a model with this published config.json and weights of that size."""
    files = [("model.safetensors", int(gib * GIB)), ("pytorch_model.bin", int(gib * GIB)), ("tokenizer.json", 7)]
    found = {"architectures": ["Qwen3ForCausalLM"], **CONFIGS[name], **config}
    return HubModel(f"org/{name}", "c" * 40, False, files, found, template, None)


def propose(model: HubModel, site: Site) -> ModelProposal:
    return propose_entry(model, site, known_architectures(PINS, site.default_image))


def test_dense_model_takes_one_gpu_as_it_is(bouchet_site: Site) -> None:
    found = propose(hub_model("Qwen3-32B", 61, TOOLS + "enable_thinking"), bouchet_site)
    entry = found.entry
    assert (entry.gpus, entry.quant, entry.window) == (1, "none", 40960)
    assert (entry.tool_parser, entry.reasoning_parser, entry.thinking) == ("hermes", "qwen3", "off")
    # the older format of the same weights is not downloaded
    assert found.bytes == 61 * GIB + 7 and found.files == 2
    assert entry.weights_gib == 61
    assert found.notes == ()


def test_model_too_large_for_one_gpu_is_quantised_before_it_is_spread(bouchet_site: Site) -> None:
    entry = propose(hub_model("Qwen2.5-72B-Instruct", 136), bouchet_site).entry
    assert (entry.gpus, entry.quant) == (1, "fp8")


def test_quantised_model_is_spread_over_the_fewest_gpus(bouchet_site: Site) -> None:
    found = propose(hub_model("Qwen3-Coder-480B-A35B-Instruct-FP8", 450), bouchet_site)
    assert (found.entry.gpus, found.entry.quant) == (4, "none")
    fits = {(fit.gpu_type, fit.gpus): fit.fits for fit in found.fits}
    assert fits[("h200", 2)] is False and fits[("h200", 4)] is True and fits[("h100", 4)] is False


def test_model_that_fits_nowhere_is_proposed_with_a_note(bouchet_site: Site) -> None:
    found = propose(hub_model("Qwen3-Coder-480B-A35B-Instruct-FP8", 5000), bouchet_site)
    assert not any(fit.fits for fit in found.fits)
    assert any("fits no GPUs of this site" in note for note in found.notes)


def test_proposal_for_the_demo_serves_on_a_cpu(demo_site: Site) -> None:
    found = propose(hub_model("SmolLM2-135M", 0.25, architectures=["LlamaForCausalLM"]), demo_site)
    assert found.entry.window == 8192 and "--enforce-eager" in found.entry.extra_args
    assert [fit.fits for fit in found.fits] == [True]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"architectures": ["FancyNewForCausalLM"]}, "does not know the architecture FancyNewForCausalLM"),
        ({"architectures": None}, "names no architecture"),
    ],
)
def test_model_that_vllm_cannot_load_is_refused(bouchet_site: Site, changes: dict[str, Any], part: str) -> None:
    with pytest.raises(HubModelError, match=part):
        propose(hub_model("Qwen3-32B", 61, **changes), bouchet_site)


def test_model_without_weights_is_refused(bouchet_site: Site) -> None:
    model = HubModel("org/x", "c" * 40, False, [("adapter.json", 5)], {"architectures": ["Qwen3ForCausalLM"]}, "", None)
    with pytest.raises(HubModelError, match="no weights"):
        propose(model, bouchet_site)


def test_every_pin_lists_what_its_vllm_loads() -> None:
    pins = [path.name for path in PINS.iterdir() if path.is_dir()]
    assert {pin: "Qwen3ForCausalLM" in known_architectures(PINS, pin) for pin in pins} == dict.fromkeys(pins, True)
    assert known_architectures(PINS, "nothing") == frozenset()


@pytest.mark.parametrize(
    ("model_type", "template", "expected"),
    [
        ("qwen3_next", "{% if tools %}<tool_call><function=x>", ("qwen3_coder", None, "none")),
        ("qwen2", "no such thing", (None, None, "none")),
        ("llama", "{% if tools %}<tool_call>", ("hermes", None, "none")),
        ("llama", "{% if tools %}<|python_tag|>", ("llama3_json", None, "none")),
        ("glm4_moe_lite", "{% if tools %}<tool_call><arg_key> enable_thinking", ("glm47", "glm45", "off")),
        ("gpt_oss", "{% if tools %}", ("openai", "openai_gptoss", "always")),
        ("deepseek_v3", "{% if tools %}<think>", ("deepseek_v3", "deepseek_r1", "always")),
        ("qwen3", "{% if tools %}<tool_call> <think>", ("hermes", "qwen3", "always")),
    ],
)
def test_parsers_by_type_and_template(
    model_type: str, template: str, expected: tuple[str | None, str | None, str]
) -> None:
    found = choose_parsers(model_type, template)
    assert (found.tools, found.reasoning, found.thinking) == expected


def test_entry_block_reads_back_as_the_same_entry(bouchet_site: Site, demo_site: Site) -> None:
    for site in (bouchet_site, demo_site):
        found = propose(hub_model("Qwen3-32B", 0.2, TOOLS + "enable_thinking"), site)
        read = CatalogDocument.model_validate(yaml.safe_load("models:\n" + entry_block(found.model, found.entry)))
        assert read.models[found.model] == found.entry


def test_taken_alias_gets_a_number() -> None:
    assert free_alias("a", ["b"]) == "a"
    assert free_alias("a", ["a", "a-2"]) == "a-3"


@given(
    name=st.sampled_from(sorted(CONFIGS)),
    keys=st.lists(st.integers(0, 40), max_size=4),
    values=st.lists(ODD, min_size=4, max_size=4),
    nested=st.booleans(),
    gib=st.sampled_from([0, 0.001, 61, 10**7]),
)
def test_any_config_is_proposed_or_refused(
    name: str, keys: list[int], values: list[Any], nested: bool, gib: float
) -> None:
    config = {**CONFIGS[name], "quantization_config": None, "rope_scaling": None, "sliding_window": None}
    names = sorted(config)
    config |= {names[number % len(names)]: value for number, value in zip(keys, values, strict=False)}
    model = replace(
        hub_model(name, gib), config={"architectures": ["A"], **({"text_config": config} if nested else config)}
    )
    for site in SITES:
        try:
            found = propose_entry(model, site, frozenset())
        except HubModelError:
            continue
        assert ModelProposal.model_validate_json(found.model_dump_json()) == found
        assert found.entry.window < 1 << 40
