"""A `docker` program whose engine is a JSON file: volumes, images and containers, without a daemon.

{"volumes": {NAME: LABELS}, "images": {NAME: ID}, "pulled": {NAME: DIGEST}, "layers": {ID: [LAYER...]},
 "containers": {ID: {"image": ID, "labels": LABELS}}, "services": {SERVICE: IMAGE},
 "registry": {NAME: DIGEST}, "calls": [[ARGUMENT...]...]}
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

PARTS = ("volumes", "images", "containers", "services", "pulled", "registry", "layers")
PROJECT, VOLUME = "com.docker.compose.project", "com.docker.compose.volume"


class FakeEngine:
    """The test's side: a folder for PATH, and the engine's state."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.state_file = folder / "docker-bin", folder / "engine.json"
        self.bin.mkdir()
        program = self.bin / "docker"
        program.write_text(f'#!/bin/bash\nexec {sys.executable} -I -S {__file__} {self.state_file} "$@"\n')
        program.chmod(0o755)
        self.set()

    @property
    def path(self) -> str:
        """PATH with this engine before everything else."""
        return f"{self.bin}:{os.environ['PATH']}"

    @property
    def state(self) -> dict[str, Any]:
        """What the engine has now."""
        return dict(json.loads(self.state_file.read_text()))

    def set(self, **parts: Any) -> None:
        """Replace the engine's state."""
        self.state_file.write_text(json.dumps({**{part: {} for part in PARTS}, "calls": [], **parts}))


def labels_of(project: str, volume: str = "") -> dict[str, str]:
    """Return the labels that Compose gives to what it makes."""
    return {PROJECT: project, **({VOLUME: volume} if volume else {})}


def main(state_file: Path, words: list[str]) -> int:
    """Answer one command, and keep what it changed."""
    state = json.loads(state_file.read_text())
    state["calls"].append(words)
    status = answer(state, words)
    state_file.write_text(json.dumps(state))
    return status


def answer(state: dict[str, Any], words: list[str]) -> int:
    """Carry out a command on the state and return its exit status."""
    match words:
        case ["version", *_]:
            print("20.10.24")
        case ["compose", "version", *_]:
            print("2.40.3")
        case ["compose", *_]:
            compose(state, words)
        case ["volume", verb, *options]:
            volume(state, verb, options)
        case ["image", *words]:
            return image(state, words)
        case ["tag", name, other]:
            return tag(state, name, other)
        case ["pull", *_, name]:
            return pull(state, name)
        case ["ps", *options]:
            print("\n".join(ids_of(state, options)))
        case ["inspect", "--format", _, *ids]:
            print("\n".join(state["containers"][number]["image"] for number in ids))
        case _:
            print(f"this engine knows no {words}", file=sys.stderr)
            return 1
    return 0


def volume(state: dict[str, Any], verb: str, options: list[str]) -> None:
    """Carry out `docker volume ls` or `rm`."""
    if verb == "rm":
        state["volumes"] = {name: labels for name, labels in state["volumes"].items() if name not in options}
    else:
        show(options, [{"Name": name, **labels} for name, labels in state["volumes"].items()])


def image(state: dict[str, Any], words: list[str]) -> int:
    """Carry out `docker image ...`."""
    match words:
        case ["ls", *options]:
            parts = [(*name.rsplit(":", 1), number) for name, number in state["images"].items()]
            show(options, [{"Repository": name, "Tag": tag, "ID": number} for name, tag, number in parts])
            return 0
        case ["tag", name, other]:
            return tag(state, name, other)
        case ["rm", name]:
            return remove_image(state, name)
        case ["inspect", "--format", text, name]:
            return inspect_image(state, text, name)
    return 1


def ids_of(state: dict[str, Any], options: list[str]) -> list[str]:
    containers, wanted = state["containers"], re.search(r"label=(\S+)", " ".join(options))
    name, _, value = wanted[1].partition("=") if wanted else ("", "", "")
    return [i for i, c in containers.items() if not name or (name in c["labels"] and value in ("", c["labels"][name]))]


def show(options: list[str], rows: list[dict[str, str]]) -> None:
    """Print rows by a Go template of fields and labels; names alone without one."""
    template = options[options.index("--format") + 1] if "--format" in options else "{{.Name}}"
    for row in rows:
        print(fill(template, row))


def fill(template: str, row: dict[str, str]) -> str:
    """Fill a row into a Go template of fields and labels."""
    line = re.sub(r"\{\{\.Label \"(\S+)\"\}\}", lambda found: row.get(found[1], ""), template)
    return re.sub(r"\{\{\.(\w+)\}\}", lambda found: row[found[1]], line)


def compose(state: dict[str, Any], words: list[str]) -> None:
    project = words[words.index("--project-name") + 1]
    if "config" in words:
        print(json.dumps({"services": {n: {"image": i, "build": {}} for n, i in state["services"].items()}}))
    if "down" in words:
        kept = {i: c for i, c in state["containers"].items() if c["labels"].get(PROJECT) != project}
        state["containers"] = kept
    if "--volumes" in words:
        state["volumes"] = {n: of for n, of in state["volumes"].items() if of.get(PROJECT) != project}


def remove_image(state: dict[str, Any], name: str) -> int:
    """Remove a tag; the last one of an image that a container uses stays, as with the real engine."""
    number = state["images"].get(name)
    last = list(state["images"].values()).count(number) == 1
    if number is None or (last and any(c["image"] == number for c in state["containers"].values())):
        print(f"conflict: unable to remove {name}", file=sys.stderr)
        return 1
    del state["images"][name]
    return 0


def inspect_image(state: dict[str, Any], text: str, name: str) -> int:
    """Print digests, as far as the image was pulled, and layers."""
    number = state["images"].get(name)
    if number is None:
        print(f"No such image: {name}", file=sys.stderr)
        return 1
    digests = [f"{name.split(':')[0]}@{digest}" for one, digest in state["pulled"].items() if one == name]
    layers = state["layers"].get(number, [number])
    print(" ".join(digests) if "join" in text else json.dumps({"digests": digests, "layers": layers}))
    return 0


def pull(state: dict[str, Any], name: str) -> int:
    """Pull by tag, or by a digest that the registry has."""
    digest = name.partition("@")[2] or state["registry"].get(name)
    if digest not in state["registry"].values():
        print(f"no registry gives {name}", file=sys.stderr)
        return 1
    print(f"Pulling from {name}")
    state["images"][name], state["pulled"][name] = digest, digest
    return 0


def tag(state: dict[str, Any], name: str, other: str) -> int:
    """Give an image another name; its digest is that image's too."""
    state["images"][other] = state["images"][name]
    if name in state["pulled"]:
        state["pulled"][other] = state["pulled"][name]
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
