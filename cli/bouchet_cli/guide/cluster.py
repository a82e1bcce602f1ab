"""Steps on this machine and on the cluster: site file, directory, services, tunnel, image, weights, launch."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime, timedelta
from functools import partial

from bouchet_cli.chat.conversation import ChatClient, Conversation
from bouchet_cli.client.deployments import DeploymentInfo
from bouchet_cli.client.errors import CommandError
from bouchet_cli.client.problems import UNKNOWN_MODEL
from bouchet_cli.client.records import DownloadInfo
from bouchet_cli.commands import tunnel as tunnel_command
from bouchet_cli.commands.site import probe, site_name, write_site
from bouchet_cli.site_probe.render import not_found, render_site
from bouchet_cli.view.lists import image_job_bar, image_job_line
from bouchet_cli.view.models import download_bar, download_line
from bouchet_cli.view.progress import job_display, wait_until_finished, wait_until_ready

from .directory import directory_problem, directory_script
from .login import site_fields
from .step import HOST, PROJECT_DIR, SITE, GuideState, GuideStep, run_make

# how long ago a run that was stopped may have been
STOPPED_RUN = timedelta(days=1)
MODEL_QUESTION = "Model (any name of `bouchet models`)"
QUESTION = "What is the capital of France? Answer in one sentence."


class WriteSite(GuideStep):
    """The site file: one of the project's, or one made from what the cluster says."""

    title = "describe the cluster in a site file"

    def is_done(self, state: GuideState) -> bool:
        """Return whether .env names a site file that exists."""
        return bool(state.value(SITE)) and (state.sites / f"{state.value(SITE)}.yaml").is_file()

    def by_hand(self, state: GuideState) -> str:
        """Return the command."""
        return f"bouchet site probe {state.value(HOST)}; then BOUCHET_SITE=<its name> in .env"

    def run(self, state: GuideState) -> None:
        """Probe the cluster, unless there is a file of that name already."""
        name = site_name(state.value(HOST))
        path = state.sites / f"{name}.yaml"
        if not path.is_file():
            site = probe(state.node(), name)
            write_site(path, render_site(site))
            state.context.screen.note(f"written: {path}")
            for sentence in not_found(site):
                state.context.screen.note(f"not found: {sentence}")
        state.save(**{SITE: name})


class ChooseDirectory(GuideStep):
    """The person's own directory on project storage."""

    title = "choose your directory on the cluster"

    def is_done(self, state: GuideState) -> bool:
        """Return whether it is set, and on the command line no other; or the site file does not ask for one."""
        text = (state.sites / f"{state.value(SITE)}.yaml").read_text(encoding="utf-8")
        known = state.value(PROJECT_DIR)
        return '"{project}' not in text or (bool(known) and state.given.get("project-dir", known) == known)

    def by_hand(self, state: GuideState) -> str:
        """Return the setting."""
        return "BOUCHET_PROJECT_DIR=<your directory on project storage> in .env"

    def run(self, state: GuideState) -> None:
        """Ask which of the directories that exist; the person's own folder in it is used."""
        facts = state.cluster()
        home = [path for path in facts.directories if "scratch" not in path.rpartition("/")[2]]
        own = [path if path.rstrip("/").endswith(f"/{facts.user}") else f"{path}/{facts.user}" for path in home]
        hint = site_fields(state.sites / f"{state.value(SITE)}.yaml").get("find_project", "")
        if not own and hint:
            state.context.screen.note(f"how to find it: {hint}")
        question = "Directory for weights, images and logs (tens of GB; not your home)"
        chosen = state.ask("project-dir", question, own[0] if len(own) == 1 else "", own if len(own) > 1 else ())
        if not re.fullmatch(r"~?(/+[A-Za-z0-9_.@+=-]+)+/*", chosen):
            raise CommandError(f"{chosen!r} is not a path of a directory; it begins with `/` or `~/`")
        chosen = chosen.rstrip("/")
        if problem := directory_problem(chosen, state.node().run(directory_script(chosen))):
            raise CommandError(f"{problem}; `bouchet setup` asks for another directory")
        state.save(**{PROJECT_DIR: chosen})
        for cache in facts.caches:
            state.context.screen.note(
                f"{cache} has models already; `models_dirs: [{cache}]` in the site file uses them as they are"
            )


class StartServices(GuideStep):
    """The local services."""

    title = "start the local services (the first time some minutes)"

    def is_done(self, state: GuideState) -> bool:
        """Return False: `make up` itself is quick where everything runs, and applies changed settings."""
        return False

    def by_hand(self, state: GuideState) -> str:
        """Return the command."""
        return "make up"

    def run(self, state: GuideState) -> None:
        """Run `make up`."""
        run_make(state, "up")


class OpenTunnel(GuideStep):
    """The gateway's own login."""

    title = "connect the services to the cluster"

    def is_done(self, state: GuideState) -> bool:
        """Return whether the tunnel is up."""
        return state.context.api.tunnel().state == "up"

    def by_hand(self, state: GuideState) -> str:
        """Return the command."""
        return "bouchet tunnel"

    def run(self, state: GuideState) -> None:
        """Answer the prompts of the login until it is up."""
        tunnel_command.connect(state.context)


class BuildImage(GuideStep):
    """The container image."""

    title = "build the container image on the cluster (10 to 20 minutes in a job)"

    def is_done(self, state: GuideState) -> bool:
        """Return whether the site's default image is there."""
        return self._row(state)["state"] in ("ready", "outdated")

    def by_hand(self, state: GuideState) -> str:
        """Return the command."""
        return f"bouchet image build {self._row(state)['pin']}"

    def run(self, state: GuideState) -> None:
        """Build it, and wait."""
        api, screen = state.context.api, state.context.screen
        job = api.image_job({"pin": self._row(state)["pin"], "action": "build"})
        with job_display(screen, image_job_line, image_job_bar, elapsed=True) as show:
            job = wait_until_finished(job, partial(api.image_record, job.id), show)
        if job.state != "done":
            raise CommandError(f"the image could not be built: {job.reason}; then run `bouchet setup` again")

    def _row(self, state: GuideState) -> dict[str, str]:
        found = state.context.api.images()
        if found.get("problem"):
            raise CommandError(f"the images on the cluster cannot be listed: {found['problem']}")
        return next(dict(row) for row in found["images"] if row["is_default"])


class ChooseModel(GuideStep):
    """The first model."""

    title = "choose the first model"

    def is_done(self, state: GuideState) -> bool:
        """Return whether one is chosen: by a run that was stopped, or one runs, or was downloaded just now.

        The command line may name another.
        """
        if not state.given.get("model"):
            state.model = state.model or state.answers.get(MODEL_QUESTION)
            running = [deployment.model for deployment in state.context.api.deployments(live=True)]
            loaded = [download.model for download in state.context.api.downloads() if _is_recent(download)]
            state.model = state.model or next(iter(running + loaded), "")
        return bool(state.model)

    def by_hand(self, state: GuideState) -> str:
        """Return the command."""
        return "bouchet models"

    def run(self, state: GuideState) -> None:
        """Ask, with models that are on the cluster first."""
        answer = state.context.api.models(refresh=True)
        models = answer["models"]
        ready = [raw["id"] for raw in models if raw["disk"]["state"] == "ready"]
        default = answer["default"] or models[0]["id"]
        others = [name for name in ready if name != default][:5]
        sizes = {raw["id"]: raw["weights_gib"] for raw in models}
        missing = "" if default in ready or not sizes.get(default) else f", {sizes[default]:g} GiB to download"
        state.context.screen.note(f"{default} is the default{missing}")
        if others:
            state.context.screen.note(f"on the cluster already: {', '.join(others)}")
        state.model = state.ask("model", MODEL_QUESTION, default)


def _is_recent(download: DownloadInfo) -> bool:
    """Return whether the download goes on, or was completed by a run of the setup that was stopped today."""
    age = datetime.now(UTC) - download.updated_at
    return not download.finished or (download.state == "done" and age < STOPPED_RUN)


class DownloadWeights(GuideStep):
    """The model's weights."""

    title = "download the model to the cluster (a job; 75 GiB take about 10 minutes)"

    def is_done(self, state: GuideState) -> bool:
        """Return whether the model is on the cluster."""
        try:
            found = state.context.api.model(state.model)
        except CommandError as exc:
            if exc.kind == UNKNOWN_MODEL:
                state.answers.forget([MODEL_QUESTION])
                raise CommandError(f"{exc}; `bouchet models add ORG/NAME` adds a model of the hub") from exc
            raise
        state.model = str(found["id"])
        return bool(found["disk"]["state"] == "ready")

    def by_hand(self, state: GuideState) -> str:
        """Return the command."""
        return f"bouchet download {state.model}"

    def run(self, state: GuideState) -> None:
        """Download it, and wait."""
        api = state.context.api
        download = api.download(state.model, None)
        with job_display(state.context.screen, download_line, download_bar) as show:
            download = wait_until_finished(download, partial(api.download_record, download.id), show)
        if download.state != "done":
            raise CommandError(f"{state.model} could not be downloaded: {download.reason}; `bouchet setup` resumes it")


class LaunchModel(GuideStep):
    """The first deployment."""

    title = "launch the model (a few minutes, after the wait in the queue)"

    def is_done(self, state: GuideState) -> bool:
        """Return whether a deployment of the model is ready."""
        return any(deployment.phase == "ready" for deployment in self._live(state))

    def by_hand(self, state: GuideState) -> str:
        """Return the command."""
        return f"bouchet launch {state.model}"

    def run(self, state: GuideState) -> None:
        """Launch it, or follow the one that is starting, until it answers."""
        api, screen = state.context.api, state.context.screen
        live = self._live(state)
        deployment = live[0] if live else api.launch({"model": state.model})
        wait_until_ready(api, deployment, screen)

    def _live(self, state: GuideState) -> list[DeploymentInfo]:
        """Return the model's deployments that are not being cancelled, newest first."""
        live = state.context.api.deployments(live=True)
        return [deployment for deployment in live if deployment.matches(state.model) and not deployment.stopping]


class AskModel(GuideStep):
    """The first answer."""

    title = "ask the model a question"

    def is_done(self, state: GuideState) -> bool:
        """Return False: it takes a second."""
        return False

    def by_hand(self, state: GuideState) -> str:
        """Return the command."""
        return "bouchet chat"

    def run(self, state: GuideState) -> None:
        """Show question and answer, and what comes next."""
        screen = state.context.screen
        deployment = state.context.ready_deployment(state.model)
        conversation = Conversation(deployment.alias)
        conversation.add_question(QUESTION)
        parts = ChatClient(state.context.settings).stream(conversation.request())
        answer = "".join(part.text for part in parts if not part.thinking).strip()
        screen.show(f"{deployment.alias}: {answer}")
        state.answers.clear()
        if shutil.which("claude", path=state.context.environment.get("PATH")) is None:
            screen.note("Claude Code is not installed: `npm install -g @anthropic-ai/claude-code`")
        screen.note("next: `./bouchet` starts Claude Code on this model, `./bouchet cancel` gives the GPU back")
