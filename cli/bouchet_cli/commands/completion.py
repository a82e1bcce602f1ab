"""`bouchet completion SHELL`: prints what a shell must read to complete our words."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence

from bouchet_cli.client.api import Api
from bouchet_cli.client.errors import CommandError, UsageError
from bouchet_cli.client.settings import PROJECT
from bouchet_cli.shell_completion import Answer, answers
from bouchet_cli.tools import Tools
from bouchet_cli.view.line import clean

# a person waits at the TAB key
PATIENCE_S = 1.0
SCRIPTS: Mapping[str, str] = {
    "bash": r"""# bash completion; in ~/.bashrc: eval "$(bouchet completion bash)"
_bouchet() {
  local line
  COMPREPLY=()
  while IFS= read -r line; do
    COMPREPLY+=("${line%%$'\t'*}")
  done < <(@program@ completion --answer -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _bouchet bouchet ./bouchet @program@
""",
    "zsh": r"""#compdef bouchet
# zsh completion; in ~/.zshrc, below compinit: eval "$(bouchet completion zsh)"
_bouchet() {
  local line
  local -a items
  for line in "${(@f)$(@program@ completion --answer -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    [[ -n $line ]] && items+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
  done
  (( ${#items} )) && _describe -t values bouchet items
}
compdef _bouchet bouchet ./bouchet @program@
""",
    "fish": r"""# fish completion; once: bouchet completion fish > ~/.config/fish/completions/bouchet.fish
function __bouchet_answers
  set -l before (commandline -opc)
  set -l current (commandline -ct)
  @program@ completion --answer -- $before[2..-1] "$current" 2>/dev/null
end
complete -c bouchet -f -a '(__bouchet_answers)'
""",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bouchet completion`."""
    parser.add_argument("shell", nargs="?", choices=tuple(SCRIPTS), help="which shell reads it")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)  # what the scripts call


def run(options: argparse.Namespace, tools: Tools) -> None:
    """Prints a shell's script, or the words that may follow those behind `--`."""
    if options.answer:
        _answer(options.claude_arguments, tools)
    elif options.shell is None:
        raise UsageError(f'name a shell: {", ".join(SCRIPTS)}; in bash: eval "$(bouchet completion bash)"')
    else:
        print(SCRIPTS[options.shell].replace("@program@", shlex.quote(str(PROJECT / "bouchet"))), end="")


def _answer(words: Sequence[str], tools: Tools) -> None:
    """One word a line, a TAB and what it means behind it. Says nothing where the stack does not."""

    def lookup(placeholder: str) -> Sequence[Answer]:
        try:
            return _looked_up(placeholder, Api(tools.settings, PATIENCE_S))
        except CommandError:
            return []

    for word, about in answers(words, lookup):
        print(f"{clean(word)}\t{' '.join(clean(about).split())}")


def _looked_up(placeholder: str, api: Api) -> list[Answer]:
    if placeholder == "MODEL":
        models = api.models()["models"]
        return [(name, model["description"]) for model in models for name in (model["alias"], model["id"])]
    if placeholder == "PIN":
        return [(path.parent.name, "") for path in sorted(PROJECT.glob("apptainer/pins/*/pin.yaml"))]
    return [(d.alias, f"{d.model}, {d.phase}") for d in api.deployments(live=True)]
