"""What an image holds, file by file."""

from __future__ import annotations

from tests.stack.harness import Stack

# run in the image: a hash over every file of what was installed
TREE = """
import hashlib, os
for folder, folders, names in os.walk("/opt/vllm"):
    folders.sort()
    for name in sorted(names):
        path = os.path.join(folder, name)
        content = os.readlink(path).encode() if os.path.islink(path) else open(path, "rb").read()
        print(hashlib.sha256(content).hexdigest(), oct(os.lstat(path).st_mode), path)
"""


def tree_of(stack: Stack, image: str) -> str:
    """List every installed file of the image, with its hash and mode."""
    argv = ["apptainer", "exec", "--cleanenv", "--no-home", image, "python3", "-c", TREE]
    finished = stack.on("demo-node1", argv, user="researcher")
    assert finished.status == 0, finished.output
    assert finished.stdout.count("\n") > 0
    return finished.stdout
