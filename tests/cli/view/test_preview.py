"""`bouchet launch --dry-run`: commands to paste into a shell."""

from __future__ import annotations

import subprocess

from bouchet_cli.view.preview import preview_lines, shell_command
from bouchet_cli.view.screen import StyledLine

from tests.cli.samples import PREVIEW

NASTY = ["a'; echo x", "two\nlines", "ünï → 日本", '$HOME `id` \\ "q"', "", "*", "-n", "a" * 300, "a~/b", "# no"]


def test_preview_has_placement_files_and_script() -> None:
    text = "\n".join(line.plain if isinstance(line, StyledLine) else line for line in preview_lines(PREVIEW))
    for part in ("gpu_devel: 1 x h200", "06:00:00", "it is the first", "# ~/b/jobs/bouchet-preview-1/spec.json",
                 "#!/bin/bash\necho one", "(empty)", "# ~/b/remote/x/vllm-serve.sbatch", "75.06 GiB"):  # fmt: skip
        assert part in text


def test_shell_command_with_nasty_arguments_can_be_pasted() -> None:
    shown = shell_command(["printf", "%s|", *NASTY])
    done = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "".join(f"{argument}|" for argument in NASTY)


def test_shell_command_keeps_the_home_folder() -> None:
    assert shell_command(["--output=~/a b"]) == "--output=\"$HOME\"/'a b'"
