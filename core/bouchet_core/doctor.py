"""The report of `bouchet doctor`: one verdict and one fix for each check."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from .values import FrozenModel


class Verdict(StrEnum):
    """The result of a check. UNKNOWN: the check could not be made, which is never a pass."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


class DoctorCheck(FrozenModel):
    """One check of one thing."""

    area: str = Field(description="stack, ssh, slurm, partitions, storage, images, gpus or catalog")
    name: str
    verdict: Verdict
    message: str = Field(description="what was found")
    fix: str = Field(default="", description="what to do about it; empty if nothing needs to be done")


class DoctorReport(FrozenModel):
    """All checks of one run."""

    version: str = Field(description="version of the API")
    checks: tuple[DoctorCheck, ...]
