"""Reads what an image build prints: how far it is, and why it failed. Pure. Python 3.6, standard library."""

import re
from typing import Dict, List, Optional, Tuple

# in the order of a build, with what each step does
STEPS = (
    ("base", "unpacking the base image"),
    ("system", "installing system packages"),
    ("packages", "installing Python packages"),
    ("compile", "compiling Python files"),
    ("test", "testing the image"),
    ("squash", "packing the image"),
    ("sign", "signing the image"),
    ("hash", "hashing the image"),
)
_DESCRIPTIONS = dict(STEPS)
_PROGRESS_LINE = re.compile(r"^bouchet: (step|packages|compile) (\S+)(?: of (\d+))?$")

BuildProgress = Dict[str, object]


def update_progress(line: str, known: BuildProgress) -> BuildProgress:
    """Return the progress after that line. step: a description; stage: one word; done, of: counts in that stage."""
    found = _PROGRESS_LINE.match(line)
    if found is None:
        return _at("squash") if "Creating SIF file" in line and known.get("stage") != "squash" else known
    word, value, of = found.groups()
    if word == "step":
        return _at(value) if value in _DESCRIPTIONS else known
    if word != known.get("stage"):
        return known
    return _at(word, int(value), int(of or 0))


def _at(stage: str, done: int = 0, of: int = 0) -> BuildProgress:
    return {"step": _DESCRIPTIONS[stage], "stage": stage, "done": done, "of": of}


# pattern in the output -> kind, message; the first that matches counts. {0}: the pattern's group, {source}: the folder
FAILURES = (
    (r"^bouchet: refused (.+)", "refused", "{0}"),
    (r"No space left on device|Disk quota exceeded", "disk_full", "the disk is full: {line}"),
    (
        r"THESE PACKAGES DO NOT MATCH THE HASHES|Expected sha256 \S+",
        "wrong_hash",
        "a package does not have the hash in the pin's requirements.lock, so nothing was built: {line}",
    ),
    (
        r"No matching distribution found for (\S+)",
        "missing_wheel",
        "there is no wheel for {0} in {source}; stage all packages of the pin's requirements.lock",
    ),
    (
        r"(Temporary failure (?:in name resolution|resolving)[^\n]*|Could not resolve[^\n]*|no such host|"
        r"dial tcp[^\n]*|Network is unreachable|Failed to establish a new connection|i/o timeout)",
        "no_network",
        "the node cannot reach the network ({0}); stage the image's parts and name the folder: "
        "`bouchet image build {pin} --from FOLDER`",
    ),
    (
        r"(fakeroot[^\n]*(?:not|no )[^\n]*|user namespaces? [^\n]*|newuidmap[^\n]*fail[^\n]*)",
        "no_build",
        "Apptainer is not allowed to build images on this node: {0}; ask the site's support how users build images",
    ),
)


def explain_failure(lines: List[str], stage: str, pin: str, source: Optional[str]) -> Tuple[str, str]:
    """Return kind and message of a failed build. lines: the last that it printed."""
    for pattern, kind, message in FAILURES:
        for line in reversed(lines):
            found = re.search(pattern, line)
            if found:
                groups = found.groups() or ("",)
                return kind, message.format(*groups, line=line.strip(), pin=pin, source=source or "any package index")
    last = _error_line(lines)
    if stage == "test":
        return "test_failed", "the image was built but does not work, so it was deleted: %s" % last
    return "build_failed", "it failed while %s: %s" % (_DESCRIPTIONS.get(stage, "starting"), last)


def _error_line(lines: List[str]) -> str:
    """Return Python's last error, else Apptainer's, else the last line."""
    printed = [line.strip() for line in lines if line.strip() and not line.startswith("bouchet: ")]
    own = [line for line in printed if re.match(r"[A-Za-z_.]*(Error|Exception)\b", line)]
    fatal = [line for line in printed if line.startswith(("FATAL:", "ERROR:", "error:", "E: "))]
    return (own or fatal or printed or ["it printed nothing"])[-1][:300]
