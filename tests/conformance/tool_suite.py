"""tool-eval-bench, a suite of others for calls of tools, by each dialect that it speaks; its own client parses us.

Its scenarios here are scripts for the demo's model, so each has to pass. The suite's fifteen core scenarios follow: the
scripted model solves hardly any, but each has to come to its end, by every dialect with the same verdicts.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.install import python_client

SCENARIOS = Path(__file__).parent / "scenarios"
FORMATS = ("openai", "anthropic", "gemini")
TIMEOUT_S = 900
QUIET = ("--json", "--no-live", "--no-warmup", "--no-preflight", "--no-probe-engine")


@dataclass(frozen=True)
class SuiteRun:
    """What the suite found. verdicts: `pass`, `partial` or `fail` by scenario; failures: what kept one from its end."""

    verdicts: Mapping[str, str]
    failures: Mapping[str, str]

    def problem(self, *, must_pass: bool) -> str:
        """Return what is wrong, '' for nothing. must_pass: each scenario is a script, which has to pass."""
        wrong = [f"{name}: {kind}" for name, kind in self.failures.items()]
        if must_pass:
            wrong += [f"{name}: {verdict}" for name, verdict in self.verdicts.items() if verdict != "pass"]
        return "; ".join(wrong) if self.verdicts else "no scenario has run"


def run_suite(url: str, key: str, model: str, dialect: str, folder: Path, own: bool = True) -> SuiteRun:
    """Run our scenarios, or the suite's core ones, against a server. The key is in no argument."""
    program = python_client("tool-eval-bench").parent / "tool-eval-bench"
    chosen = ["--scenario-pack", str(SCENARIOS), "--pack-only"] if own else ["--short"]
    target = ["--base-url", url, "--model", model, "--format", dialect]
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [str(program), "run", *target, *chosen, *QUIET, "--output-dir", str(folder)],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "TOOL_EVAL_API_KEY": key, "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    return read_run(done.stdout)


def read_run(printed: str) -> SuiteRun:
    """Read the report that the suite printed; no scenario has run where it printed none."""
    report: dict[str, Any] = json.loads(printed) if printed.startswith("{") else {}
    results: Sequence[dict[str, Any]] = report.get("scores", {}).get("scenario_results", [])
    return SuiteRun(
        {result["scenario_id"]: result["status"] for result in results},
        {result["scenario_id"]: result["failure_kind"] for result in results if _is_ours(result.get("failure_kind"))},
    )


def _is_ours(kind: object) -> bool:
    """Return whether a scenario failed through the server, and not through what the model wrote."""
    return isinstance(kind, str) and ("error" in kind or "timeout" in kind)


def check_dialects(url: str, key: str, model: str, folder: Path) -> dict[str, str]:
    """Run all of it by each dialect; return what is wrong by dialect, '' for nothing."""
    found, core = {}, dict[str, SuiteRun]()
    for dialect in FORMATS:
        own = run_suite(url, key, model, dialect, folder / dialect)
        core[dialect] = run_suite(url, key, model, dialect, folder / f"{dialect}-core", own=False)
        problems = [own.problem(must_pass=True), core[dialect].problem(must_pass=False)]
        if core[dialect].verdicts != core[FORMATS[0]].verdicts:
            problems.append(f"verdicts differ from those of {FORMATS[0]}")
        found[f"tool-eval-bench, {dialect}"] = "; ".join(filter(None, problems))
    return found
