"""`make install`: `bouchet` on the PATH, with completion of its commands; `make uninstall` removes both."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .command import try_run
from .errors import SetupError
from .progress import Progress

# completion's file by shell, below the person's data and configuration folders
COMPLETIONS = {
    "bash": ("XDG_DATA_HOME", ".local/share", "bash-completion/completions/bouchet"),
    "fish": ("XDG_CONFIG_HOME", ".config", "fish/completions/bouchet.fish"),
}


def install(root: Path, environ: Mapping[str, str], progress: Progress) -> None:
    """Link the program into ~/.local/bin, and write the completion of bash and fish. Raises SetupError."""
    link = link_path(environ)
    if link.exists() and not is_ours(link, root):
        raise SetupError(f"{link} is another program; remove it, or call ./bouchet in this folder")
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(root / "bouchet")
    except OSError as exc:
        raise SetupError(f"cannot make {link}: {exc.strerror}") from exc
    progress.note(f"{link} leads to {root / 'bouchet'}")
    for shell, path in completion_paths(environ).items():
        code = try_run([str(root / "bouchet"), "completion", shell], env=dict(environ))
        if code:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code, encoding="utf-8")
            progress.note(f"completion for {shell}: {path}")
    progress.note('completion for zsh: in ~/.zshrc, after compinit: eval "$(bouchet completion zsh)"')
    if str(link.parent) not in environ.get("PATH", "").split(os.pathsep):
        progress.note(f'{link.parent} is not on your PATH; add it: export PATH="{link.parent}:$PATH"')


def uninstall(root: Path, environ: Mapping[str, str], progress: Progress) -> None:
    """Remove what `install` made; other programs of the name stay."""
    link = link_path(environ)
    gone = [path for path in completion_paths(environ).values() if path.is_file()]
    if is_ours(link, root):
        gone.append(link)
    for path in gone:
        path.unlink()
        progress.note(f"removed {path}")
    progress.note("`make clean` removes containers, volumes and images; docs/install.md says what stays on the cluster")


def link_path(environ: Mapping[str, str]) -> Path:
    """Return where the program is linked."""
    return home(environ) / ".local" / "bin" / "bouchet"


def is_ours(link: Path, root: Path) -> bool:
    """Return whether the link leads to this checkout's program, or to one that is gone."""
    return link.is_symlink() and (link.resolve() == (root / "bouchet").resolve() or not link.exists())


def completion_paths(environ: Mapping[str, str]) -> dict[str, Path]:
    """Return the completion's file by shell."""
    return {
        shell: Path(environ.get(variable) or home(environ) / default) / name
        for shell, (variable, default, name) in COMPLETIONS.items()
    }


def home(environ: Mapping[str, str]) -> Path:
    """Return the person's home."""
    return Path(environ.get("HOME") or Path.home())
