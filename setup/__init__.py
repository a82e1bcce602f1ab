"""Set up the local half of bouchet-llm: what make runs, with the host's python3 and the standard library only."""

import sys
from pathlib import Path

# Here and not in __main__, whose syntax an older Python could not even read.
if sys.version_info < (3, 11):
    sys.exit(
        "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try `make up PYTHON=python3.11`"
    )
# bouchet_core.env_file needs nothing but the standard library
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "core"))
