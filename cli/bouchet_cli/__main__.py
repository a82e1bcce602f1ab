"""`python -m bouchet_cli`, started by `./bouchet`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from .arguments import parse
from .client.errors import CommandError
from .commands import load
from .tools import Tools

INTERRUPTED = 130
# what a bare `bouchet` does
BARE = "claude"


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs one command; the exit status (see arguments.EXIT_STATUSES)."""
    tools = Tools(environment)
    try:
        options = parse(arguments)
        load(options.command or BARE).run(options, tools)
    except CommandError as exc:
        tools.screen.fail(str(exc))
        return exc.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # the reader (head, less) has seen enough; nothing may be flushed to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
