"""Entry point: `python -m bouchet_cli`, which the script `./bouchet` runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from .arguments import parse
from .client.errors import CommandError
from .commands import BARE, load
from .context import CommandContext
from .view.screen import replace_unprintable

INTERRUPTED = 130
OUTPUT_FAILED = 1
# set by the shell functions that `bouchet completion` prints
COMPLETION_VARIABLE = "_ARGCOMPLETE"


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run one command and return its exit status (see arguments.EXIT_STATUSES)."""
    replace_unprintable(sys.stdout, sys.stderr)
    context = CommandContext(environment)
    if COMPLETION_VARIABLE in environment:
        from .commands.completion import complete  # argcomplete loads only when a shell asks for completions

        complete(context)
    try:
        options = parse(arguments)
        load(options.command or BARE).run(options, context)
        # an error of the last write appears here, not when Python exits
        sys.stdout.flush()
    except CommandError as exc:
        context.screen.error(str(exc))
        return exc.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of the pipe (head, less) has exited
        _drop_output()
    except OSError as exc:
        _drop_output()
        context.screen.error(f"{exc.filename or 'the output'}: {exc.strerror or exc}")
        return OUTPUT_FAILED
    return 0


def _drop_output() -> None:
    """Send what is still buffered nowhere: Python flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
