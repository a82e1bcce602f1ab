"""`bouchet launch --dry-run`, without a cluster."""

from __future__ import annotations

import subprocess

from bouchet_cli.view.line import Line
from bouchet_cli.view.preview import preview_lines, shell_line

PREVIEW = {
    "placement": {
        "partition": "gpu_devel", "gpus": 1, "gpu_type": "h200", "nodes": 1, "cpus": 6, "memory_gib": 240,
        "walltime_s": 21_600, "why": "it is the first",
    },
    "image": "cpu.sif",
    "window": 4096,
    "memory": {
        "gpu_gib": 139.8, "share": 0.92, "weights_gib": 75.06, "work_gib": 4.5, "cache_gib": None,
        "token_bytes": 24_576, "window_gib": 6.25, "window": 4096, "longest": 262_144, "conversations": 7.5,
        "source": "the model on the cluster", "note": "about 7.5 conversations fit",
    },
    "folder": "~/b/jobs/bouchet-preview-1",
    "script": "#!/bin/bash\necho one\n",
    "command": ["sbatch", "--parsable", "~/b/remote/x/vllm-serve.sbatch", "~/b/jobs/bouchet-preview-1", "~/b/remote/x"],
    "files": {"spec.json": '{"a": 1}\n', "setup.sh": ""},
}  # fmt: skip


def test_all_of_it_is_shown() -> None:
    text = "\n".join(line.plain if isinstance(line, Line) else line for line in preview_lines(PREVIEW))
    for words in ("gpu_devel: 1 x h200", "06:00:00", "why: it is the first", "nothing was submitted", "# command",
                  "# ~/b/jobs/bouchet-preview-1/spec.json", "#!/bin/bash\necho one", "(empty)",
                  "# ~/b/remote/x/vllm-serve.sbatch"):  # fmt: skip
        assert words in text


def test_the_sum_of_memory_is_shown_as_far_as_it_is_known() -> None:
    shown = [line for line in preview_lines(PREVIEW) if isinstance(line, str) and line.startswith("memory: ")]
    assert shown == [
        "memory: one GPU    139.80 GiB  x 0.92 for vLLM",
        "memory: weights     75.06 GiB  by the model on the cluster",
        "memory: own work     4.50 GiB  estimated: activations, graphs, NCCL",
        "memory: a window     6.25 GiB  of 4096 tokens, 24.0 KiB a token",
        "memory: about 7.5 conversations fit; its config.json allows 262144 tokens",
    ]


NASTY = ["a'; echo x", "two\nlines", "ünï → 日本", '$HOME `id` \\ "q"', "", "*", "-n", "a" * 300, "a~/b", "# no"]


def test_the_command_can_be_pasted_into_a_shell() -> None:
    shown = shell_line(["printf", "%s|", *NASTY])
    done = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, check=True)
    assert done.stdout == "".join(f"{word}|" for word in NASTY)


def test_home_stays_home() -> None:
    assert shell_line(["--output=~/a b"]) == "--output=\"$HOME\"/'a b'"
