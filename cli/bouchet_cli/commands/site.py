"""`bouchet site`: the site file of a cluster."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bouchet_cli.client.env_edit import replace_file
from bouchet_cli.client.errors import CommandError, UsageError
from bouchet_cli.client.settings import PROJECT
from bouchet_cli.context import CommandContext
from bouchet_cli.site_probe.gpu_tests import (
    MOST_PARTITIONS,
    GpuRequestChoice,
    choose_style,
    features_to_try,
    merge_refusals,
    partition_tests,
    style_tests,
)
from bouchet_cli.site_probe.parse import ClusterFacts, ProbedPartition, parse_facts
from bouchet_cli.site_probe.remote import LoginNode, login_node
from bouchet_cli.site_probe.render import ProbedSite, not_found, render_site
from bouchet_cli.site_probe.scripts import FACTS, test_script

NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,40}$")


def add_site_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `bouchet site probe`."""
    actions = parser.add_subparsers(dest="action", metavar="probe", required=True, parser_class=type(parser))
    probe = actions.add_parser("probe", help="write a site file from what the cluster says", allow_abbrev=False)
    probe.add_argument("host", metavar="HOST", help="alias of ~/.ssh/config, or a host name")
    probe.add_argument("--name", metavar="NAME", help="name of the site file (default: made from HOST)")
    probe.add_argument("--force", action="store_true", help="replace a site file of that name")
    probe.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run_site(options: argparse.Namespace, context: CommandContext) -> None:
    """Probe the cluster and write its site file."""
    name = options.name or site_name(options.host)
    if not NAME.match(name):
        raise UsageError(f"--name: {name!r} is not a name for a site file; use lower-case letters, digits, `-` and `_`")
    path = site_path(name, context)
    if path.exists() and not options.force:
        raise CommandError(f"{path} exists already; choose another --name, or replace it with --force")
    context.screen.note(f"asking {options.host}; ssh may ask for a password or a second factor")
    with login_node(options.host, context.environment) as node:
        site = probe(node, name)
    write_site(path, render_site(site))
    missing = list(not_found(site))
    if options.json:
        context.screen.show_json({"path": str(path), "name": name, "not_found": missing})
        return
    partitions = ", ".join(partition.name for partition in site.usable) or "none"
    context.screen.show(f"written: {path}", f"GPU partitions: {partitions}")
    for sentence in missing:
        context.screen.show(f"not found: {sentence}")
    context.screen.note(f"next: BOUCHET_HOST={options.host} and BOUCHET_SITE={name} in .env, then `make up`")


def probe(node: LoginNode, name: str) -> ProbedSite:
    """Ask the login node, and return what was found. Raises CommandError where it is no Slurm login node."""
    facts = parse_facts(node.host, node.run(FACTS))
    choice = _choose_style(node, facts)
    sections = node.run(test_script(partition_tests(facts, choice)))
    return ProbedSite(name, node.host, f"{datetime.now(UTC):%d %B %Y}", facts, choice, sections)


def _choose_style(node: LoginNode, facts: ClusterFacts) -> GpuRequestChoice:
    """Return how to ask for GPUs, with all refusals of sbatch.

    A partition may refuse for reasons of its own, so others are tried before every way counts as refused, or
    before a job gets its GPUs without asking for them.
    """
    tried: list[GpuRequestChoice] = []
    for partition in facts.gpu_partitions[:MOST_PARTITIONS]:
        tried += _try_partition(node, facts, partition)
        if tried[-1].asks_for_gpus:
            break
    if not tried:
        return choose_style(facts, {})
    whole_nodes = next((choice for choice in tried if choice.style), tried[0])
    best = tried[-1] if tried[-1].asks_for_gpus else whole_nodes
    return replace(best, refusals=merge_refusals(tried))


def _try_partition(node: LoginNode, facts: ClusterFacts, partition: ProbedPartition) -> Iterator[GpuRequestChoice]:
    """Yield what comes of the tests there; with a feature of the nodes, too, where sbatch does not go without one."""
    choice = choose_style(facts, node.run(test_script(style_tests(facts, partition))))
    yield choice
    for feature in features_to_try(partition) if choice.wants_constraint else ():
        choice = choose_style(facts, node.run(test_script(style_tests(facts, partition, feature))), feature)
        yield choice
        if choice.asks_for_gpus:
            return


def site_path(name: str, context: CommandContext) -> Path:
    """Return the site file of that name."""
    return PROJECT / (context.environment.get("BOUCHET_SITE_DIR") or "sites") / f"{name}.yaml"


def write_site(path: Path, text: str) -> None:
    """Write the file, which the containers' user may read. Raises CommandError where it cannot be written."""
    replace_file(path, text, 0o644)


def site_name(host: str) -> str:
    """Return a name made from a host: `login.cluster.edu` gives `cluster`, an alias stays as it is."""
    parts = [part for part in host.rpartition("@")[2].lower().split(".") if part not in ("login", "www")]
    return re.sub(r"[^a-z0-9_-]", "-", parts[0] if parts else host)[:40]
