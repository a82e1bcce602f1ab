"""The one tree of errors.

    BouchetError
    ├── ConfigurationError        a file the user wrote is wrong (catalog, site file, secret)
    ├── UnknownModelError              the catalog has no such model
    ├── LaunchRefusedError             the request cannot be served; says what would
    ├── RecordError
    │   ├── UnknownDeploymentError
    │   ├── UnknownDownloadError
    │   ├── UnknownPinError            the project has no image of this name
    │   ├── UnknownImageJobError
    │   ├── ImageInUseError            a live deployment serves from it
    │   ├── ImageMissingError          it does not lie on the cluster
    │   ├── NameTakenError
    │   ├── NoFreeSlotError
    │   ├── IllegalTransitionError
    │   ├── UnknownOrphanError         no such job without a record
    │   ├── OrphanRefusedError         the job may not be taken over, or not be cancelled
    │   ├── StaleRecordError           somebody else moved the record first
    │   ├── KeyNameTakenError          a key of that name exists
    │   └── UnknownKeyError            no key has that name
    ├── StoreUnavailableError          Redis did not answer
    ├── GatewayError
    │   ├── ClusterUnavailableError           nothing is known about the cluster: try again
    │   │   ├── GatewayUnreachableError
    │   │   ├── TunnelDownError
    │   │   └── HumanNeededError       a prompt (Duo, passphrase, host key) waits for an answer
    │   ├── RemoteTimeoutError         unknown whether the command ran
    │   ├── RemoteCommandError   it ran and said no
    │   ├── RemoteFileMissingError
    │   ├── RemoteFileError         SFTP said no: permission, space, quota
    │   ├── NotAllowedError            program or path outside the allow-list
    │   ├── StalePromptError           the answered prompt is no longer open
    │   └── HostKeyNotTrustedError            the host key to accept or forget is not the one at hand
    └── SlurmOutputError          Slurm printed what this version cannot read

Every error carries fields for programs and a message for people: what happened, and what to do next.
`kind` is the word that HTTP bodies use for it.
"""

from collections.abc import Sequence


class BouchetError(Exception):
    """Base of all errors that bouchet-llm raises on purpose."""

    kind = "error"


class ConfigurationError(BouchetError):
    """A file that a person wrote cannot be used. `line` counts from 1, 0 when unknown."""

    kind = "configuration"

    def __init__(self, path: str, problem: str, line: int = 0) -> None:
        self.path, self.problem, self.line = path, problem, line
        place = f"{path}:{line}" if line else path
        super().__init__(f"{place}: {problem}")


class UnknownModelError(BouchetError):
    """No catalog entry has this id or alias."""

    kind = "unknown_model"

    def __init__(self, model: str, known: Sequence[str], near: Sequence[str] = ()) -> None:
        self.model, self.known, self.near = model, tuple(known), tuple(near)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
        super().__init__(f"no model {model!r} in the catalog; {hint}")


class LaunchRefusedError(BouchetError):
    """The request fits no partition or no image; the message names the nearest that would."""

    kind = "launch_refused"


class RecordError(BouchetError):
    """A record cannot be made or moved as asked."""

    kind = "record"


class UnknownDeploymentError(RecordError):
    """No record has this id (or name). hint: what to do where listing them is not it."""

    kind = "unknown_deployment"

    def __init__(self, deployment: str, hint: str = "`bouchet status` lists them") -> None:
        self.deployment = deployment
        super().__init__(f"no deployment {deployment!r}; {hint}")


class UnknownDownloadError(RecordError):
    """No download has this id, and none of a model of this name is under way."""

    kind = "unknown_download"

    def __init__(self, download: str) -> None:
        self.download = download
        super().__init__(f"no download {download!r}; `bouchet download MODEL` starts one")


class UnknownPinError(RecordError):
    """No folder of apptainer/pins has this name."""

    kind = "unknown_pin"

    def __init__(self, pin: str, known: Sequence[str]) -> None:
        self.pin, self.known = pin, tuple(known)
        super().__init__(f"no pin {pin!r}; there are {', '.join(known) or 'none'} (`bouchet image list`)")


class UnknownImageJobError(RecordError):
    """No build has this id, and none of a pin of this name is under way."""

    kind = "unknown_image_job"

    def __init__(self, job: str) -> None:
        self.job = job
        super().__init__(f"no build {job!r}; `bouchet image build PIN` starts one")


class ImageInUseError(RecordError):
    """A live deployment serves from the image."""

    kind = "image_in_use"

    def __init__(self, pin: str, deployments: Sequence[str]) -> None:
        self.pin, self.deployments = pin, tuple(deployments)
        names = ", ".join(deployments)
        super().__init__(f"{names} serves from the image {pin}; `bouchet cancel` that first, or say --force")


class ImageMissingError(RecordError):
    """No such image lies on the cluster."""

    kind = "image_missing"

    def __init__(self, pin: str) -> None:
        self.pin = pin
        super().__init__(f"no image {pin!r} lies on the cluster; `bouchet image list` shows what does")


class NameTakenError(RecordError):
    """A live deployment already answers under this name."""

    kind = "name_taken"

    def __init__(self, name: str, owner: str) -> None:
        self.name, self.owner = name, owner
        super().__init__(
            f"{name!r} is already served by deployment {owner}; "
            f"choose another with --name, or `bouchet cancel {owner}` first"
        )


class NoFreeSlotError(RecordError):
    """All slots of the gateway are held by live deployments."""

    kind = "no_free_slot"

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(f"all {count} slots are in use; cancel a deployment first (`bouchet status`)")


class IllegalTransitionError(RecordError):
    """The table of phases has no such row."""

    kind = "illegal_transition"

    def __init__(self, deployment: str, origin: str, target: str) -> None:
        self.deployment, self.origin, self.target = deployment, origin, target
        super().__init__(f"deployment {deployment} cannot move from {origin} to {target}")


class UnknownOrphanError(RecordError):
    """No job of that Slurm id is without a record."""

    kind = "unknown_orphan"

    def __init__(self, slurm_id: int) -> None:
        self.slurm_id = slurm_id
        super().__init__(f"no job {slurm_id} without a record; `bouchet orphans --all` lists them")


class OrphanRefusedError(RecordError):
    """The job is not one that this installation may take over or cancel."""

    kind = "orphan_refused"

    def __init__(self, slurm_id: int, why: str) -> None:
        self.slurm_id, self.why = slurm_id, why
        super().__init__(f"job {slurm_id} is left alone: {why}")


class StaleRecordError(RecordError):
    """Compare-and-set lost: read the record again and decide anew."""

    kind = "stale_record"

    def __init__(self, deployment: str) -> None:
        self.deployment = deployment
        super().__init__(f"deployment {deployment} was changed by somebody else; try again")


class KeyNameTakenError(RecordError):
    """A key of this name exists; it cannot be shown again."""

    kind = "key_name_taken"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"there is a key {name!r} already; `bouchet keys revoke {name}` first, or take another name")


class UnknownKeyError(RecordError):
    """No key has this name."""

    kind = "unknown_key"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"no key {name!r}; `bouchet keys list` shows them")


class StoreUnavailableError(BouchetError):
    """Redis did not answer, or refused."""

    kind = "store_unavailable"

    def __init__(self, detail: str) -> None:
        self.detail = detail
        super().__init__(f"the store (Redis) does not answer: {detail}; see `make logs`")


class GatewayError(BouchetError):
    """The gateway could not do what was asked."""

    kind = "gateway"


class ClusterUnavailableError(GatewayError):
    """Nothing was learnt about the cluster. Never a reason to end anything."""

    kind = "cluster_unavailable"


class GatewayUnreachableError(ClusterUnavailableError):
    """The gateway container itself did not answer."""

    kind = "gateway_unreachable"


class TunnelDownError(ClusterUnavailableError):
    """No SSH connection right now; the gateway is retrying."""

    kind = "tunnel_down"


class HumanNeededError(ClusterUnavailableError):
    """The SSH login waits for a person: `bouchet tunnel` shows and answers the prompt."""

    kind = "human_needed"


class RemoteTimeoutError(GatewayError):
    """No answer in time: the command may or may not have run. Look before repeating it."""

    kind = "command_timeout"


class RemoteCommandError(GatewayError):
    """A program on the cluster ended with a non-zero status."""

    kind = "command_failed"

    def __init__(self, argv: Sequence[str], exit_status: int, stderr: str) -> None:
        self.argv, self.exit_status, self.stderr = tuple(argv), exit_status, stderr
        said = stderr.strip() or "(it printed no error)"
        super().__init__(f"{argv[0]} ended with status {exit_status}: {said}")


class RemoteFileMissingError(GatewayError):
    """No such file on the cluster."""

    kind = "file_missing"


class RemoteFileError(GatewayError):
    """The file server on the cluster refused: permission, disk full, quota."""

    kind = "remote_refused"


# the kind of a slot's refusal where the compute node itself let the gateway not in
NODE_REFUSED = "node_refused"


class NotAllowedError(GatewayError):
    """The program or path is not on the gateway's allow-list."""

    kind = "not_allowed"


class StalePromptError(GatewayError):
    """The prompt was answered already, or the server gave up on it."""

    kind = "stale_prompt"


class HostKeyNotTrustedError(GatewayError):
    """A host key was not accepted: it is not the one offered, has changed, or cannot be kept."""

    kind = "host_key_not_trusted"


class SlurmOutputError(BouchetError):
    """Slurm printed something that this version cannot read; the text is kept."""

    kind = "slurm_output"

    def __init__(self, program: str, text: str) -> None:
        self.program, self.text = program, text
        super().__init__(f"cannot read what {program} printed: {text[:200]!r}")
