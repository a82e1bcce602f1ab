"""Brings the local half of bouchet-llm up and down; standard library only, run by make with the host's python3."""

import sys

# Here and not in __main__, whose syntax an older Python could not even read.
if sys.version_info < (3, 11):
    sys.exit(
        "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try `make PYTHON=python3.11`"
    )
