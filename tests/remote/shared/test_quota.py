"""What is read of the output of a site's quota program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from quota import bytes_left, run_quota_command

GIB = 1 << 30
# the layout of Yale's getquota, with other names and numbers
GETQUOTA = """\
This script shows information about your quotas on the current gpfs filesystem.

## Usage Details for lab (as of Nov 20 2026 05:00)
Fileset                User  Usage (GiB) File Count
---------------------- ----- ---------- -------------
gibbs:project          ab12         900         1,121
gibbs:project          cd34          24           492

## Quota Summary for lab (as of right now)
Fileset                Type    Usage (GiB)  Quota (GiB) File Count    File Limit    Backup    Purged
---------------------- ------- ------------ ----------- ------------- ------------- --------- ---------
home.grace             USR               14         125       120,345       500,000 Yes       No
gibbs:project          GRP            1,000       1,024     1,121,492     5,000,000 No        No
gibbs:pi_lab           FILESET       20,480      20,000     2,692,158             0 No        No
palmer:scratch         GRP               10           0       282,212             0 No        60 days
"""


@pytest.mark.parametrize(
    ("folder", "left"),
    [
        ("/gpfs/gibbs/project/lab/ab12/models", 24 * GIB),
        ("/home/ab12/models", 111 * GIB),
        ("/gpfs/gibbs/pi/pi_lab/models", 0),
        ("/gpfs/gibbs/project/pi_lab/models", 0),
        ("/vast/palmer/scratch/lab/models", None),
        ("/elsewhere/models", None),
    ],
)
def test_getquota_table_gives_row_of_folder(folder: str, left: int | None) -> None:
    assert bytes_left(GETQUOTA, folder) == left


def test_table_row_is_found_through_link(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "mine").symlink_to(tmp_path / "project")
    assert bytes_left(GETQUOTA, str(tmp_path / "mine" / "models")) == 24 * GIB


def test_number_alone_on_line_is_bytes_left() -> None:
    assert bytes_left("your quota:\n 4000000 \n", "/models") == 4_000_000


@pytest.mark.parametrize(
    "output", ["", "getquota: command not found", "used 5 of 10", "fs used quota\nproject 95 100 95%"]
)
def test_other_output_gives_nothing(output: str) -> None:
    assert bytes_left(output, "/project") is None


def test_command_is_run_without_shell() -> None:
    assert run_quota_command([sys.executable, "-c", "print('$HOME; 5')"], 10) == "$HOME; 5"
    assert run_quota_command([], 10) == ""
    assert "No such file" in run_quota_command(["/no/such/program"], 10)
    assert "timed out" in run_quota_command([sys.executable, "-c", "import time; time.sleep(9)"], 0)
