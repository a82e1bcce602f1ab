"""`python3 -m setup COMMAND`: what the Makefile calls."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from . import command, down, image_stage, install, up
from .docker import arm64_images, base_images, engine
from .docker.stack import Stack, find_stack
from .errors import SetupError
from .progress import Progress
from .python import arm64, audit, locks
from .python import environments as tools

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> int:
    """Run one command and return the exit status. Every expected failure is one `error:` line."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a runner's time limit is a Ctrl-C too
    try:
        with Progress(sys.stderr) as progress:
            carry_out(options, find_stack(ROOT, os.environ), progress)
    except SetupError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"error: {explain(exc)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        command.end_all()
        print("error: interrupted; `make up` goes on from here", file=sys.stderr)
        return 130
    return 0


def explain(exc: OSError) -> str:
    """Describe an error of the operating system in a sentence."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({exc.filename or 'no space left on device'}); free some space and run it again"
    return f"{exc.filename or 'the system'}: {exc.strerror or exc}"


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python3 -m setup", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up", help="everything: engine, images, secrets, services, the demo")
    start.add_argument("--no-launch", action="store_true", help="stop when the services are healthy")
    commands.add_parser("down", help="stop all, keep data")
    commands.add_parser("remove", help="stop all, remove this stack's volumes and secret files")
    commands.add_parser("clean", help="stop all, remove volumes, images and staged files")
    commands.add_parser("status", help="the state of each container")
    commands.add_parser("logs", help="what the containers say, followed")
    commands.add_parser("engine", help="make sure that a Docker engine answers")
    commands.add_parser("env", help="make .env if it is not there")
    commands.add_parser("compose", help="print the argv prefix of Compose for this stack, shell-quoted")
    commands.add_parser("renew", help="renew every lock file and base image digest, and print what changed")
    pin = commands.add_parser("pin", help="renew the lock of each GPU image of one vLLM")
    pin.add_argument("vllm", nargs="?", default="")
    commands.add_parser("arm64", help="check that the locks install on Linux for arm64")
    foreign = commands.add_parser("arm64-images", help="build every image for arm64 and start it, by an emulator")
    foreign.add_argument("services", nargs="*", help="services of the Compose files; all images if none is named")
    stage = commands.add_parser("stage", help="stage what an image build needs, for nodes without network")
    stage.add_argument("pin", nargs="?", default="")
    stage.add_argument("folder", nargs="?", default="")
    commands.add_parser("install", help="put bouchet on the PATH, with completion")
    commands.add_parser("uninstall", help="remove what install made")
    commands.add_parser("audit", help="ask the public advisory databases about every locked package")
    commands.add_parser("cli", help="make the Python environment of ./bouchet")
    kit = commands.add_parser("tools", help="what the tests and checks need")
    kit.add_argument("--fast", action="store_true", help="only what tests without an engine need")
    return parser.parse_args(arguments)


def carry_out(options: argparse.Namespace, stack: Stack, progress: Progress) -> None:
    """Do what the command says."""
    commands: Mapping[str, Callable[[], None]] = {
        "up": lambda: up.bring_up(stack, progress, with_model=not options.no_launch),
        "down": lambda: down.take_down(stack, progress),
        "remove": lambda: down.remove(stack, progress),
        "clean": lambda: down.clean(stack, progress),
        "status": lambda: down.print_status(stack, progress),
        "logs": lambda: down.follow_logs(stack, progress),
        "compose": lambda: print(down.compose_prefix(stack, progress)),
        "engine": lambda: progress.note(f"Docker engine {engine.ensure_engine(progress)}"),
        "env": lambda: make_env_file(stack, progress),
        "renew": lambda: renew(stack, progress),
        "pin": lambda: locks.renew_pins(stack.root, options.vllm, progress),
        "arm64": lambda: arm64.check_arm64(stack.root, progress),
        "arm64-images": lambda: arm64_images.build_arm64(stack, progress, os.environ, options.services),
        "stage": lambda: image_stage.stage_pin(stack.root, options.pin, options.folder, progress),
        "install": lambda: install.install(stack.root, os.environ, progress),
        "uninstall": lambda: install.uninstall(stack.root, os.environ, progress),
        "audit": lambda: audit.audit_locks(stack.root, progress),
        "cli": lambda: tools.ensure_cli(stack.root, progress),
        "tools": lambda: tools.ensure_tools(stack.root, progress, fast=options.fast),
    }
    commands[options.command]()


def renew(stack: Stack, progress: Progress) -> None:
    """Renew the digests of the base images, where an engine and a registry answer, and all locks."""
    if engine.ask_version() is not None:
        base_images.renew_digests(stack.root, progress)
    locks.renew_all(stack.root, progress)


def make_env_file(stack: Stack, progress: Progress) -> None:
    """Make the env file unless it is there; check it either way."""
    up.provide_env_file(stack, progress)
    progress.note(f"{stack.env_file} is in order")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
