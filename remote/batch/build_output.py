"""What an image build prints, read: how far it is, and why it failed. Pure. Python 3.6, standard library."""

import re
from typing import Dict, List, Optional, Tuple

# in the order of a build; what each does, in words
STEPS = (
    ("base", "laying the base"),
    ("system", "adding system packages"),
    ("packages", "installing packages"),
    ("compile", "compiling Python files"),
    ("test", "trying it"),
    ("squash", "packing the image"),
    ("sign", "signing it"),
    ("hash", "hashing it"),
)
_WORDS = dict(STEPS)
_OURS = re.compile(r"^bouchet: (step|packages|compile) (\S+)(?: of (\d+))?$")

Progress = Dict[str, object]


def progress_of(line: str, known: Progress) -> Progress:
    """What is known after that line. step: a sentence; stage: one word; done, of: counts within it."""
    found = _OURS.match(line)
    if found is None:
        return _at("squash") if "Creating SIF file" in line and known.get("stage") != "squash" else known
    word, value, of = found.groups()
    if word == "step":
        return _at(value) if value in _WORDS else known
    if word != known.get("stage"):
        return known
    return _at(word, int(value), int(of or 0))


def _at(stage: str, done: int = 0, of: int = 0) -> Progress:
    return {"step": _WORDS[stage], "stage": stage, "done": done, "of": of}


# what the lines say -> (kind, sentence); the first that fits counts. {0}: what the pattern caught, {source}: the folder
FAILURES = (
    (r"^bouchet: refused (.+)", "refused", "{0}"),
    (r"No space left on device|Disk quota exceeded", "disk_full", "the disk is full: {line}"),
    (
        r"THESE PACKAGES DO NOT MATCH THE HASHES|Expected sha256 \S+",
        "wrong_hash",
        "a package is not the one that the pin's lock names, so nothing was built: {line}",
    ),
    (
        r"No matching distribution found for (\S+)",
        "missing_wheel",
        "there is no wheel for {0} in {source}; stage all that the pin's requirements.lock names",
    ),
    (
        r"(Temporary failure (?:in name resolution|resolving)[^\n]*|Could not resolve[^\n]*|no such host|"
        r"dial tcp[^\n]*|Network is unreachable|Failed to establish a new connection|i/o timeout)",
        "no_network",
        "the node does not reach what the image is made from ({0}); stage it and name the folder: "
        "`bouchet image build {pin} --from FOLDER`",
    ),
    (
        r"(fakeroot[^\n]*(?:not|no )[^\n]*|user namespaces? [^\n]*|newuidmap[^\n]*fail[^\n]*)",
        "no_build",
        "Apptainer may not build images on this node: {0}; ask the site how its users build them",
    ),
)


def failure_in_words(lines: List[str], stage: str, pin: str, source: Optional[str]) -> Tuple[str, str]:
    """Kind and sentence of a build that failed. lines: the last that it printed."""
    for pattern, kind, sentence in FAILURES:
        for line in reversed(lines):
            found = re.search(pattern, line)
            if found:
                caught = found.groups() or ("",)
                return kind, sentence.format(*caught, line=line.strip(), pin=pin, source=source or "any package index")
    last = _last_words(lines)
    if stage == "test":
        return "test_failed", "the image was built but does not work, so it was not kept: %s" % last
    return "build_failed", "it failed while %s: %s" % (_WORDS.get(stage, "starting"), last)


def _last_words(lines: List[str]) -> str:
    """The line that says most: Python's last error, else Apptainer's, else the last one."""
    said = [line.strip() for line in lines if line.strip() and not line.startswith("bouchet: ")]
    own = [line for line in said if re.match(r"[A-Za-z_.]*(Error|Exception)\b", line)]
    fatal = [line for line in said if line.startswith(("FATAL:", "ERROR:", "error:", "E: "))]
    return (own or fatal or said or ["it left no word"])[-1][:300]
