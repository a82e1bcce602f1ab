"""`bouchet models add|info|remove` through command line, API and worker, with the real scripts and a hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.contracts.test_worker_and_api import Services
from tests.fakes.gateway_api import FakeGateway
from tests.fakes.hub_server import Hub, HubModel, running_hub
from tests.fakes.running_api import running
from tests.fakes.running_worker import running_worker, worker_environment
from tests.fakes.slurm_gateway import FakeSlurm, running_gateway
from tests.remote.compute_node import SCRIPTS

REPOSITORY = Path(__file__).parents[2]
MODEL, GATED, STRANGE = "org/Small-Model", "org/gated", "org/strange"
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64,
    "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000,
    "max_position_embeddings": 4096,
}  # fmt: skip


def hub_model(**changes: object) -> HubModel:
    config = json.dumps({**CONFIG, **changes}).encode()
    return HubModel({"config.json": config, "model.safetensors": b"x" * 100_000}, frozenset({"model.safetensors"}))


@pytest.fixture
def services(tmp_path: Path, redis_server: RedisServer) -> Iterator[Services]:
    """Yield API and worker on the demo's site, with a hub in place of its own."""
    slurm, gated = FakeSlurm(), hub_model()
    gated.gated = True
    slurm.real_scripts = {name: SCRIPTS / name for name in ("inspect_hub.py", "remove_model.py", "list_models.py")}
    with ExitStack() as opened:
        models = {MODEL: hub_model(), GATED: gated, STRANGE: hub_model(architectures=["StrangeForCausalLM"])}
        hub = opened.enter_context(running_hub(Hub(models)))
        demo = (REPOSITORY / "sites" / "demo.yaml").read_text()
        site = demo.replace("http://login:8600", hub.url).replace("/software/models", str(tmp_path / "models"))
        (tmp_path / "demo.yaml").write_text(site)
        (tmp_path / "demo.models.yaml").write_text((REPOSITORY / "sites" / "demo.models.yaml").read_text())
        gateway = opened.enter_context(FakeGateway())
        api = opened.enter_context(running(tmp_path, redis_server, gateway))
        url = opened.enter_context(running_gateway(slurm))
        (tmp_path / "secrets").mkdir()
        environment = worker_environment(tmp_path / "secrets", redis_port=redis_server.port, gateway_url=url)
        environment |= {"BOUCHET_SITE_FILE": str(tmp_path / "demo.yaml")}
        environment |= {"PINS_DIR": str(REPOSITORY / "apptainer" / "pins")}
        worker = opened.enter_context(running_worker(environment, "one"))
        yield Services(api, slurm, worker, environment)


@pytest.mark.slow
def test_model_of_the_hub_is_added_described_and_removed(services: Services, tmp_path: Path) -> None:
    described = services.bouchet("models", "info", MODEL)
    assert described.returncode == 0, described.stderr
    assert "alias: bouchet-small-model" in described.stdout and "not in the catalog" in described.stderr
    refused = services.bouchet("models", "add", MODEL)
    assert refused.returncode == 2 and "--yes" in refused.stderr
    added = services.bouchet("models", "add", MODEL, "--yes", BOUCHET_SITE_DIR=str(tmp_path))
    assert added.returncode == 0, added.stderr
    assert f"bouchet download {MODEL}" in added.stderr
    shown = json.loads(services.bouchet("models", "info", "bouchet-small-model", "--json").stdout)
    assert shown["added"] is True and shown["entry"]["window"] == 4096 and shown["disk"]["state"] != "ready"
    weights = tmp_path / "models" / "org" / "Small-Model" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"x" * 1000)
    (weights.parent / "config.json").write_text("{}")
    removed = services.bouchet("models", "remove", MODEL, "--yes", BOUCHET_SITE_DIR=str(tmp_path))
    assert removed.returncode == 0, removed.stderr
    assert "freed" in removed.stdout
    assert not weights.exists() and not (tmp_path / "site.added.yaml").exists()
    assert services.bouchet("models", "info", "bouchet-small-model").returncode == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "part", "status"),
    [
        ("org/absent", "check the spelling", 1),
        (GATED, "accept its terms", 1),
        (STRANGE, "does not know the architecture StrangeForCausalLM", 1),
        ("not-an-id", "ORG/NAME", 2),
    ],
)
def test_model_that_cannot_be_added_is_one_sentence(
    services: Services, model: str, part: str, status: int, tmp_path: Path
) -> None:
    done = services.bouchet("models", "add", model, "--yes", BOUCHET_SITE_DIR=str(tmp_path))
    assert done.returncode == status and part in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "site.added.yaml").exists()


@pytest.mark.slow
def test_catalog_model_is_neither_added_nor_removed_with_its_entry(services: Services, tmp_path: Path) -> None:
    done = services.bouchet("models", "remove", "Qwen/Qwen3-32B", "--yes")
    assert done.returncode == 3 and "it is not there" in done.stderr
