"""Other kinds of clusters, made from the demo's by configuration: what Slurm refuses, and what logins are like."""

from __future__ import annotations

import contextlib
import io
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.stack.harness import Stack
from tests.waiting import wait_for

USER, HOME, CONFIG = "researcher", "/home/researcher", "/etc/slurm/slurm.conf"
CLI_FILTER_FILE = "/etc/slurm/cli_filter.lua"
ACCOUNTING_PID = "/run/slurm/slurmdbd.pid"
PROGRAMS = "sbatch squeue scancel sinfo scontrol sacct sacctmgr"
# a real job_submit plugin, as sites have one: it prints, and refuses
SUBMIT_PLUGIN = """
function slurm_job_submit(job, partitions, uid)
  slurm.log_user("Welcome: your balance is 1000 SU")
  local refused = {%s}
  for name, option in pairs(refused) do
    if job[name] ~= nil and string.find(job[name], "gpu") then
      slurm.log_user("--" .. option .. " is not allowed on this system")
      return slurm.ERROR
    end
  end
  if %s and (job.account == nil or job.account == "") then
    slurm.log_user("specify an account with --account")
    return slurm.ERROR
  end
  return slurm.SUCCESS
end
function slurm_job_modify(job, record, partitions, uid) return slurm.SUCCESS end
return slurm.SUCCESS
"""
# a real cli_filter plugin, which sees the options themselves: to slurmctld, --gres and --gpus-per-node are the same
CLI_FILTER = """
local function given(value) return value ~= nil and value ~= "" and value ~= "unset" end
local function refuse(text)
  slurm.log_error(text)
  return slurm.ERROR
end
function slurm_cli_setup_defaults(options, early_pass) return slurm.SUCCESS end
function slurm_cli_pre_submit(options, offset)
  for _, name in ipairs({"gpus", "gpus-per-node", "gpus-per-task"}) do
    if given(options[name]) then return refuse("--" .. name .. " is not supported here: use --gres=gpu:N") end
  end
  local gres = options["gres"]
  if not given(gres) then return slurm.SUCCESS end
  if string.find(gres, "gpu:[a-z]") then return refuse("the kind of GPU is no part of --gres here") end
  if not given(options["constraint"]) then return refuse("choose the kind of GPU with --constraint") end
  return slurm.SUCCESS
end
function slurm_cli_post_submit(offset, job_id, step_id) return slurm.SUCCESS end
"""


@dataclass(frozen=True)
class Flavour:
    """One kind of cluster. refused: Slurm's name of a request -> sbatch's option.

    constraint: the feature of nodes that sbatch wants beside `--gres=gpu:N`, and takes no other request for GPUs.
    """

    name: str
    refused: dict[str, str] = field(default_factory=dict)
    needs_account: bool = False
    whole_nodes: bool = False
    start_up: str = ""
    login_shell: str = "/bin/bash"
    slurm_folder: str = ""
    has_accounting: bool = True
    constraint: str = ""


TACC = Flavour(
    "whole nodes, as at TACC",
    refused={"tres_per_job": "gpus", "tres_per_node": "gres", "tres_per_task": "gpus-per-task"},
    needs_account=True,
    whole_nodes=True,
    start_up="echo '*** Welcome to the cluster ***'\nexport SLURM_TIME_FORMAT=relative",
)
DELTA = Flavour(
    "per node with an account, tcsh, Slurm off the PATH",
    refused={"tres_per_job": "gpus", "tres_per_task": "gpus-per-task"},
    needs_account=True,
    login_shell="/bin/tcsh",
    slurm_folder="/opt/slurm/bin",
)
NO_ACCOUNTING = Flavour(
    "per task, no slurmdbd", refused={"tres_per_job": "gpus", "tres_per_node": "gres"}, has_accounting=False
)
WITH_CONSTRAINT = Flavour("--gres=gpu:N and a constraint, demanded by a cli_filter", constraint="h200")
FLAVOURS = (TACC, DELTA, NO_ACCOUNTING, WITH_CONSTRAINT)
# what start-up files do in shells without a terminal that cannot be used; the last line of each
UNUSABLE_START_UPS = {
    "exits": "echo 'choose a project'\nexit 0",
    "fails": "echo 'choose a project' >&2\nexit 1",
    "becomes another shell": "echo 'choose a project'\nexec /bin/tcsh -f",
    "becomes a program": "echo 'choose a project'\nexec cat",
}


def put_file(stack: Stack, service: str, path: str, text: str) -> None:
    """Write a file into a container of the stack."""
    folder, _, name = path.rpartition("/")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(text.encode()), 0o644
        # Slurm takes a Lua script of 1970 for one that it has loaded, and crashes
        member.mtime = int(time.time())
        tar.addfile(member, io.BytesIO(text.encode()))
    assert stack.container(service).put_archive(folder, archive.getvalue())


def as_root(stack: Stack, service: str, script: str) -> str:
    """Run a shell script in a container."""
    done = stack.on(service, ["sh", "-ec", script], user="root")
    assert done.status == 0, done.output
    return done.stdout


@contextlib.contextmanager
def configured(stack: Stack, flavour: Flavour) -> Iterator[None]:
    """Make the demo cluster one of that kind, and the demo again in the end."""
    bashrc = as_root(stack, "demo-login", f"cat {HOME}/.bashrc")
    config = as_root(stack, "demo-ctl", f"cat {CONFIG}")
    try:
        _apply(stack, flavour, bashrc, config)
        yield
    finally:
        _undo(stack, flavour, bashrc, config)


def _apply(stack: Stack, flavour: Flavour, bashrc: str, config: str) -> None:
    refused = ", ".join(f'{name} = "{option}"' for name, option in flavour.refused.items())
    plugin = SUBMIT_PLUGIN % (refused, "true" if flavour.needs_account else "false")
    put_file(stack, "demo-ctl", "/etc/slurm/job_submit.lua", plugin)
    exclusive = config
    if flavour.whole_nodes:
        exclusive = config.replace("PartitionName=gpu_h200 ", "PartitionName=gpu_h200 OverSubscribe=EXCLUSIVE ")
        assert exclusive != config
    put_file(stack, "demo-ctl", CONFIG, f"{exclusive}\nJobSubmitPlugins=lua\n")
    _restart_controller(stack)
    if flavour.start_up:
        put_file(stack, "demo-login", f"{HOME}/.bashrc", f"{flavour.start_up}\n{bashrc}")
    as_root(stack, "demo-login", f"usermod --shell {flavour.login_shell} {USER}; mkdir -p {HOME}/project_pi_x/{USER}")
    as_root(stack, "demo-login", f"chown -R {USER}: {HOME}/project_pi_x {HOME}/.bashrc")
    if flavour.slurm_folder:
        as_root(
            stack,
            "demo-login",
            f"mkdir -p {flavour.slurm_folder}; for one in {PROGRAMS}; do mv /usr/bin/$one {flavour.slurm_folder}; done",
        )
    if flavour.constraint:
        put_file(stack, "demo-login", CLI_FILTER_FILE, CLI_FILTER)
        as_root(stack, "demo-login", f"echo CliFilterPlugins=lua >> {CONFIG}")
    if not flavour.has_accounting:
        as_root(stack, "demo-ctl", f"kill $(cat {ACCOUNTING_PID})")


def _undo(stack: Stack, flavour: Flavour, bashrc: str, config: str) -> None:
    as_root(stack, "demo-login", f"sed -i /^CliFilterPlugins=/d {CONFIG}; rm -f {CLI_FILTER_FILE}")
    if flavour.slurm_folder:
        as_root(stack, "demo-login", f"mv {flavour.slurm_folder}/* /usr/bin/")
    put_file(stack, "demo-login", f"{HOME}/.bashrc", bashrc)
    as_root(stack, "demo-login", f"usermod --shell /bin/bash {USER}; chown {USER}: {HOME}/.bashrc")
    put_file(stack, "demo-ctl", CONFIG, config)
    _restart_controller(stack)


def _restart_controller(stack: Stack) -> None:
    """Start slurmctld and slurmdbd with their new configuration; a reconfigured slurmctld is another process.

    Until its nodes have registered, seconds after it is up, it refuses every job for a GPU.
    """
    stack.container("demo-ctl").restart(timeout=10)
    stack.wait_healthy("demo-ctl")
    wait_for(lambda: "is UP" in stack.on("demo-ctl", ["scontrol", "ping"]).output, 60)
    show = ["scontrol", "show", "node"]
    wait_for(lambda: "SlurmdStartTime=None" not in stack.on("demo-ctl", show).output, 60)
