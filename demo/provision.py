"""Sets the demo cluster up: `python3 -m demo.provision stage`, then, with its containers up, `install`.

Both are safe to repeat and quick when there is nothing to do. Environment:

    COMPOSE       Compose's command line without the verb, quoted as for a shell (`docker compose -p NAME -f ...`)
    DEMO_STAGING  the staging folder, if it is not .cache/staging in the repository; compose.yaml reads it too
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from .commands import ProvisionError
from .installing import Cluster, install
from .layout import Layout
from .staging import stage

DEFAULT_COMPOSE = "docker compose -f compose.yaml -f demo/compose.yaml"


def read_layout(environ: Mapping[str, str]) -> Layout:
    root = Path(__file__).resolve().parent.parent
    return Layout(root, root / (environ.get("DEMO_STAGING") or ".cache/staging"))


def main(environ: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(prog="demo.provision", description="Set the demo cluster up.")
    parser.add_argument("part", choices=["stage", "install"], help="fetch on this machine, or make on the cluster")
    part = parser.parse_args().part
    layout = read_layout(environ)
    try:
        if part == "stage":
            stage(layout)
        else:
            install(layout, Cluster(shlex.split(environ.get("COMPOSE") or DEFAULT_COMPOSE)))
    except ProvisionError as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
