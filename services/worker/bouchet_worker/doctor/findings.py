"""Making checks."""

from __future__ import annotations

from bouchet_core.doctor import DoctorCheck, Verdict


class Findings:
    """Makes the checks of one area."""

    def __init__(self, area: str) -> None:
        self._area = area

    def good(self, name: str, said: str) -> DoctorCheck:
        """All is well."""
        return DoctorCheck(area=self._area, name=name, verdict=Verdict.PASS, message=said)

    def warn(self, name: str, said: str, fix: str) -> DoctorCheck:
        """It works, and may cost somebody an evening."""
        return DoctorCheck(area=self._area, name=name, verdict=Verdict.WARN, message=said, fix=fix)

    def bad(self, name: str, said: str, fix: str) -> DoctorCheck:
        """It does not work."""
        return DoctorCheck(area=self._area, name=name, verdict=Verdict.FAIL, message=said, fix=fix)

    def unknown(self, name: str, said: str, fix: str = "") -> DoctorCheck:
        """It could not be looked at."""
        return DoctorCheck(area=self._area, name=name, verdict=Verdict.UNKNOWN, message=said, fix=fix)


def gib(count: int) -> str:
    """Bytes for people."""
    size = count / (1 << 30)
    return f"{size:.0f} GiB" if size >= 10 else f"{size:.1f} GiB"
