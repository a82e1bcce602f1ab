"""What `make remove` and `make clean` remove: what belongs to this stack, and nothing that another one has."""

from __future__ import annotations

from setup.command import run

from .stack import Stack

LISTED_VOLUME = '{{.Name}} {{.Label "com.docker.compose.project"}} {{.Label "com.docker.compose.volume"}}'


def remove_own_volumes(stack: Stack) -> None:
    """Remove the volumes that Compose made for this stack alone."""
    ours = parse_own_volumes(run(["docker", "volume", "ls", "--format", LISTED_VOLUME]), stack.project)
    if ours:
        run(["docker", "volume", "rm", *ours])


def parse_own_volumes(listing: str, project: str) -> list[str]:
    """Parse lines of NAME PROJECT VOLUME, and select the volumes named PROJECT_VOLUME for `project`.

    The label alone also marks a volume with a name of its own, which stacks share: it carries the project of whichever
    came first. The name alone also fits another stack: `bouchet_lab_data` begins with `bouchet_`.
    """
    rows = [words for line in listing.splitlines() if len(words := line.split()) == 3]
    return [name for name, owner, volume in rows if owner == project and name == f"{project}_{volume}"]
