"""What a launch is going to be, in full, before anything happens on the cluster: placement, files, command line.

A real launch and a preview ask the same functions, so that what the preview shows is what the launch does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bouchet_core.config.catalog import entry_of
from bouchet_core.deployments import Deployment, Job, Phase, Placement
from bouchet_core.errors import LaunchRefusedError, RemoteCommandError, SlurmOutputError
from bouchet_core.keys import serving_key
from bouchet_core.placement import AUTO_PARTITION, UserUsage, candidates, image_of

from bouchet_worker.context import WorkerContext
from bouchet_worker.slurm import commands as slurm

from .job_files import SCRIPT, job_name, render_files, spec_for, window_of
from .pin_check import changed_arguments

LOOK_TIMEOUT_S = 20.0
SBATCH_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Trial:
    """One partition that was asked for its start: Slurm's estimate as printed, empty when it named none."""

    place: Placement
    start: str


def planned(context: WorkerContext, record: Deployment, slot: int) -> Job:
    """The next job of that deployment, placed. Raises LaunchRefusedError, UnknownModelError, and the gateway's errors."""
    entry = entry_of(record, context.catalog)
    image = image_of(record, entry, context.site)
    name, placement = job_name(record), _placement(context, record)
    arguments = spec_for(record, name, entry, placement, image, context.site).arguments
    changed = changed_arguments(record.pins.arguments, arguments) if record.pins is not None else ""
    if changed:
        placement = placement.model_copy(update={"why": f"{placement.why}; {changed}"})
    return Job.model_validate(
        {
            "name": name,
            "slot": slot,
            "placement": placement,
            "arguments": arguments,
            "window": window_of(entry, record.request),
            "image": f"{image.pin}.sif",
            "vllm_version": image.vllm,
            "since": {Phase.SUBMITTING: context.now()},
        }
    )


def placement_of(job: Job) -> Placement:
    """The job's placement, which every planned job has."""
    if job.placement is None:
        raise LaunchRefusedError("the record has no placement")
    return job.placement


def files_of(context: WorkerContext, record: Deployment, job: Job) -> dict[str, bytes]:
    """The files of the job's folder, by name; `key` is one of them."""
    entry = entry_of(record, context.catalog)
    spec = spec_for(record, job.name, entry, placement_of(job), image_of(record, entry, context.site), context.site)
    return render_files(spec, context.site, serving_key(context.serving_secret, job.name))


def command_of(context: WorkerContext, job: Job) -> list[str]:
    """The command that submits it."""
    folder = context.layout.scripts(context.scripts.digest)
    arguments = [context.layout.job(job.name), folder]
    return slurm.sbatch_argv(placement_of(job), job.name, context.layout.log("%j"), f"{folder}/{SCRIPT}", arguments)


def _placement(context: WorkerContext, record: Deployment) -> Placement:
    entry = entry_of(record, context.catalog)
    places = candidates(entry, record.request, context.site, _held(context))
    return _earliest(context, places) if record.request.partition == AUTO_PARTITION else places[0]


def _held(context: WorkerContext) -> Mapping[str, UserUsage]:
    """What the user's jobs hold now; nothing where this Slurm cannot say it, for it will queue the job all the same."""
    try:
        return slurm.parse_held(context.gateway.run(slurm.held_argv(), timeout_s=LOOK_TIMEOUT_S).stdout)
    except (RemoteCommandError, SlurmOutputError):
        return {}


def _earliest(context: WorkerContext, places: Sequence[Placement]) -> Placement:
    """Of several placements the one that Slurm would start first, by its own estimate."""
    if len(places) == 1:
        return places[0]
    tried = [_try(context, place) for place in places]
    dated = [trial for trial in tried if trial.start]
    if not dated:
        return places[0]
    best = min(dated, key=lambda trial: slurm.order_of_start(trial.start))
    told = ", ".join(f"{t.place.partition} {_when(t.start, context.now())}" for t in tried)
    return best.place.model_copy(update={"why": f"{best.place.partition} starts it first by Slurm's estimate ({told})"})


def _when(start: str, now: datetime) -> str:
    """A start as printed, in words: `now`, `in 12 min`, the printed text where it is no number of seconds."""
    if not start.isdigit():
        return f"at {start}" if start else "never"
    minutes = round((int(start) - now.timestamp()) / 60)
    if minutes < 1:
        return "now"
    return f"in {minutes} min" if minutes < 120 else f"in {minutes / 60:.0f} h"


def _try(context: WorkerContext, place: Placement) -> Trial:
    script = context.scripts.files[SCRIPT].decode()
    try:
        output = context.gateway.run(slurm.test_only_argv(place), stdin=script, timeout_s=SBATCH_TIMEOUT_S)
    except RemoteCommandError:
        return Trial(place, "")
    found = slurm.parse_start_test(output.stderr)
    return Trial(place, found.start if found else "")
