"""A site file from `bouchet site probe`, and a launch to an answer, on other kinds of clusters.

Part of `make soak`: each kind starts the demo's Slurm and sshd with other settings, which takes minutes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from bouchet_core.config.site import load_site

from tests.stack.clusters.flavours import FLAVOURS, HOME, UNUSABLE_START_UPS, Flavour, as_root, configured
from tests.stack.clusters.person import ALIAS, make_person, run_as, with_demo_image
from tests.stack.harness import Stack
from tests.waiting import wait_for

SERVICES = ("gateway", "worker", "api", "proxy")


@pytest.fixture
def person(stack: Stack, tmp_path: Path) -> Iterator[dict[str, str]]:
    yield make_person(stack, tmp_path)
    # the demo's own site file again
    end_all(stack)
    done = stack.make("up")
    assert done.status == 0, done.output


def end_all(stack: Stack) -> None:
    """Cancel everything, and wait until the queue is empty."""
    stack.bouchet("cancel", "--all")
    wait_for(lambda: not stack.deployments(), 120, lambda: str(stack.deployments()))


@pytest.mark.parametrize("flavour", FLAVOURS, ids=[flavour.name for flavour in FLAVOURS])
def test_probed_site_file_serves_on_this_kind_of_cluster(
    stack: Stack, person: dict[str, str], flavour: Flavour
) -> None:
    end_all(stack)
    with configured(stack, flavour):
        probed = run_as(person, stack.bouchet, "site", "probe", ALIAS, "--name", "demo")
        assert probed.status == 0, probed.output
        path = Path(person["BOUCHET_SITE_DIR"]) / "demo.yaml"
        text = with_demo_image(path.read_text()).replace("{project}", f"{HOME}/project_pi_x/researcher")
        text = re.sub(r"(?m)^login: .*$", "login: {host: login, user: researcher}", text)
        path.write_text(text)
        site = load_site(path, {})
        assert f"{HOME}/project_pi_x" in path.read_text(), "the directory was found"
        assert (site.gpu_request == "none") is flavour.whole_nodes, probed.output
        assert site.account == ("lab" if flavour.needs_account else None)
        if flavour.constraint:
            assert site.gpu_request == "gres" and not site.gpu_type_requested, probed.output
            assert {p.constraint for p in site.partitions if p.gpus_per_node} == {flavour.constraint}, path.read_text()
        assert site.path == ((flavour.slurm_folder,) if flavour.slurm_folder else ())
        for service in SERVICES:
            stack.container(service).restart(timeout=10)
        up = run_as(person, stack.make, "up")
        assert up.status == 0, up.output + path.read_text()
        assert "Its answer: " in up.stdout
        end_all(stack)


@pytest.mark.parametrize("kind", UNUSABLE_START_UPS)
def test_start_up_file_that_ends_the_shell_is_a_sentence(stack: Stack, tmp_path: Path, kind: str) -> None:
    person = make_person(stack, tmp_path)
    with configured(stack, Flavour(f"a start-up file that {kind}", start_up=UNUSABLE_START_UPS[kind])):
        done = run_as(person, stack.bouchet, "site", "probe", ALIAS)
        examined = stack.bouchet("doctor", "--json")
    assert done.status == 1 and "start-up file" in done.stderr, done.output
    assert "start-up files of the account's shell" in examined.stdout, examined.output
    # the connection was up all the time
    assert stack.bouchet("doctor").status == 0
    assert as_root(stack, "demo-login", f"cat {HOME}/.bashrc").count("choose a project") == 0
