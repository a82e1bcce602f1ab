"""The one tree of errors.

    BouchetError
    ├── ConfigurationError            a file or variable that a person wrote is wrong (catalog, site file, secret)
    ├── UnknownModelError             the catalog has no such model
    ├── LaunchRefusedError            the request cannot be served; the message names what can
    ├── RecordError
    │   ├── UnknownDeploymentError
    │   ├── UnknownDownloadError
    │   ├── UnknownPinError           the project has no image pin of this name
    │   ├── UnknownImageJobError
    │   ├── ImageInUseError           a live deployment uses the image
    │   ├── ImageMissingError         the image is not on the cluster
    │   ├── OtherWorkInProgressError  a batch job works on the same subject in another way
    │   ├── NameTakenError
    │   ├── NoFreeSlotError
    │   ├── IllegalTransitionError
    │   ├── UnknownOrphanError        no such job without a record
    │   ├── OrphanRefusedError        the job must not be adopted or cancelled
    │   ├── StaleRecordError          another process changed the record first
    │   ├── UnreadableRecordError     another version stored the record
    │   ├── KeyNameTakenError
    │   └── UnknownKeyError
    ├── StoreError
    │   ├── StoreUnavailableError     Redis does not answer
    │   └── StoreRefusedError         the service's Redis user may not run this command
    ├── GatewayError
    │   ├── ClusterUnavailableError   nothing was learned about the cluster: try again
    │   │   ├── GatewayUnreachableError
    │   │   ├── TunnelDownError
    │   │   └── HumanNeededError      a login prompt or an unknown host key waits for a person
    │   ├── RemoteTimeoutError        the command may or may not have run
    │   ├── RemoteCommandError        the command ran and failed
    │   ├── OutputTooLongError        the command ran and printed more than the gateway returns
    │   ├── RemoteFileMissingError
    │   ├── RemoteFileError           SFTP failed: permission, space, quota
    │   ├── UntrustedFolderError      another user owns our folder on the cluster
    │   ├── NotAllowedError           the program or path is not on the allowlist
    │   ├── StalePromptError          the answered prompt is no longer open
    │   └── HostKeyNotTrustedError    the host key to accept or forget is not the offered one
    └── SlurmOutputError              Slurm printed what this version cannot parse

Every error has fields for programs and a message for people: what happened, then the next step.
`kind` is its name in HTTP bodies.
"""

from collections.abc import Sequence


class BouchetError(Exception):
    """Base of all errors that bouchet-llm raises on purpose."""

    kind = "error"


class ConfigurationError(BouchetError):
    """A file or variable that a person wrote cannot be used. `line` counts from 1; 0: not known."""

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
        if not near and "/" in model:
            hint = f"`bouchet models add {model}` adds a model of the hub"
        super().__init__(f"no model {model!r} in the catalog; {hint}")


class LaunchRefusedError(BouchetError):
    """The request fits no partition or no image; the message names the nearest one that does."""

    kind = "launch_refused"


class RecordError(BouchetError):
    """A record cannot be created or changed as requested."""

    kind = "record"


class UnknownDeploymentError(RecordError):
    """No record has this id or name. hint: the next step, where listing deployments is not it."""

    kind = "unknown_deployment"

    def __init__(self, deployment: str, hint: str = "`bouchet status` lists them") -> None:
        self.deployment = deployment
        super().__init__(f"no deployment {deployment!r}; {hint}")


class UnknownDownloadError(RecordError):
    """No download has this id, and none is running for a model of this name."""

    kind = "unknown_download"

    def __init__(self, download: str) -> None:
        self.download = download
        super().__init__(f"no download {download!r}; `bouchet download MODEL` starts one")


class UnknownPinError(RecordError):
    """No folder of apptainer/pins has this name."""

    kind = "unknown_pin"

    def __init__(self, pin: str, known: Sequence[str]) -> None:
        self.pin, self.known = pin, tuple(known)
        super().__init__(f"no pin {pin!r}; known: {', '.join(known) or 'none'} (`bouchet image list`)")


class UnknownImageJobError(RecordError):
    """No build has this id, and none is running for a pin of this name."""

    kind = "unknown_image_job"

    def __init__(self, job: str) -> None:
        self.job = job
        super().__init__(f"no image build {job!r}; `bouchet image build PIN` starts one")


class ImageInUseError(RecordError):
    """A live deployment uses the image."""

    kind = "image_in_use"

    def __init__(self, pin: str, deployments: Sequence[str]) -> None:
        self.pin, self.deployments = pin, tuple(deployments)
        verb = "uses" if len(self.deployments) == 1 else "use"
        super().__init__(f"{', '.join(deployments)} {verb} the image {pin}; `bouchet cancel` first, or add --force")


class ImageMissingError(RecordError):
    """The cluster has no such image."""

    kind = "image_missing"

    def __init__(self, pin: str) -> None:
        self.pin = pin
        super().__init__(f"no image {pin!r} on the cluster; `bouchet image list` shows which there are")


class OtherWorkInProgressError(RecordError):
    """A live batch job works on the same model or image, with other options."""

    kind = "other_work_in_progress"

    def __init__(self, subject: str, batch_job: str, difference: str) -> None:
        self.subject, self.batch_job, self.difference = subject, batch_job, difference
        super().__init__(
            f"{batch_job} of {subject} is under way with {difference}; wait until it has ended, or cancel it"
        )


class NameTakenError(RecordError):
    """A live deployment already uses this name."""

    kind = "name_taken"

    def __init__(self, name: str, owner: str) -> None:
        self.name, self.owner = name, owner
        super().__init__(
            f"{name!r} is already served by deployment {owner}: use it (`bouchet`, `bouchet chat`), choose another "
            f"name, or `bouchet cancel {owner}` first"
        )


class NoFreeSlotError(RecordError):
    """Live deployments use all slots of the gateway."""

    kind = "no_free_slot"

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(f"all {count} slots are in use; cancel a deployment first (`bouchet status`)")


class IllegalTransitionError(RecordError):
    """The table of phases has no such transition."""

    kind = "illegal_transition"

    def __init__(self, deployment: str, origin: str, target: str) -> None:
        self.deployment, self.origin, self.target = deployment, origin, target
        super().__init__(f"deployment {deployment} cannot move from {origin} to {target}")


class UnknownOrphanError(RecordError):
    """No job of that Slurm id is without a record."""

    kind = "unknown_orphan"

    def __init__(self, slurm_id: int) -> None:
        self.slurm_id = slurm_id
        super().__init__(f"no orphaned job {slurm_id}; `bouchet orphans --all` lists them")


class OrphanRefusedError(RecordError):
    """The job must not be adopted or cancelled by this installation."""

    kind = "orphan_refused"

    def __init__(self, slurm_id: int, why: str) -> None:
        self.slurm_id, self.why = slurm_id, why
        super().__init__(f"job {slurm_id} was not changed: {why}")


class StaleRecordError(RecordError):
    """A compare-and-set failed: read the record again and decide again."""

    kind = "stale_record"

    def __init__(self, record: str) -> None:
        self.record = record
        super().__init__(f"{record} was changed by another process at the same time; try again")


class UnreadableRecordError(RecordError):
    """A record is stored in a form that this version cannot read."""

    kind = "unreadable_record"

    def __init__(self, what: str, name: str, problem: str) -> None:
        self.what, self.name, self.problem = what, name, problem
        super().__init__(
            f"the record of {what} {name!r} cannot be read ({problem}); start the version of bouchet-llm that stored it"
        )


class KeyNameTakenError(RecordError):
    """A key of this name exists; it cannot be shown again."""

    kind = "key_name_taken"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"a key {name!r} exists already; `bouchet keys revoke {name}` first, or choose another name")


class UnknownKeyError(RecordError):
    """No key has this name."""

    kind = "unknown_key"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"no key {name!r}; `bouchet keys list` shows them")


class StoreError(BouchetError):
    """The store (Redis) did not do what was requested."""

    kind = "store"


class StoreUnavailableError(StoreError):
    """Redis did not answer, or failed."""

    kind = "store_unavailable"

    def __init__(self, detail: str) -> None:
        self.detail = detail
        super().__init__(f"the store (Redis) does not answer: {detail}; see `make logs`")


class StoreRefusedError(StoreError):
    """Redis answers, but this service's user may not run the command or use its keys: trying again is no use."""

    kind = "store_refused"

    def __init__(self, command: str, detail: str) -> None:
        self.command, self.detail = command, detail
        fix = "setup/files/redis_acl.py says what each service may do; `make up` writes it for Redis"
        super().__init__(f"Redis refuses {command} to this service ({detail}); {fix}")


class GatewayError(BouchetError):
    """The gateway could not do what was requested."""

    kind = "gateway"


class ClusterUnavailableError(GatewayError):
    """Nothing was learned about the cluster. Never a reason to end a deployment."""

    kind = "cluster_unavailable"


class GatewayUnreachableError(ClusterUnavailableError):
    """The gateway container itself did not answer."""

    kind = "gateway_unreachable"


class TunnelDownError(ClusterUnavailableError):
    """There is no SSH connection; the gateway is retrying."""

    kind = "tunnel_down"


class HumanNeededError(ClusterUnavailableError):
    """The SSH login waits for a person: `bouchet tunnel` shows and answers the prompt."""

    kind = "human_needed"


class RemoteTimeoutError(GatewayError):
    """No answer in time: the command may or may not have run. Check before repeating it."""

    kind = "command_timeout"


class RemoteCommandError(GatewayError):
    """A program on the cluster ended with a non-zero status."""

    kind = "command_failed"

    def __init__(self, argv: Sequence[str], exit_status: int, stderr: str) -> None:
        self.argv, self.exit_status, self.stderr = tuple(argv), exit_status, stderr
        output = stderr.strip() or "(it printed no error)"
        super().__init__(f"{argv[0]} ended with status {exit_status}: {output}")


class OutputTooLongError(GatewayError):
    """A program on the cluster printed more than the gateway returns; a part of it would be misread as the whole."""

    kind = "output_too_long"

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = tuple(argv)
        super().__init__(f"{argv[0]} printed more than the gateway returns")


class RemoteFileMissingError(GatewayError):
    """The cluster has no such file."""

    kind = "file_missing"


class RemoteFileError(GatewayError):
    """The SFTP server on the cluster refused: permission, disk full, quota."""

    kind = "remote_refused"


# kind of the error that a slot sends when the compute node refused the gateway's login
NODE_REFUSED = "node_refused"


class UntrustedFolderError(GatewayError):
    """A folder of ours on the cluster belongs to another user: what is in it must not run."""

    kind = "untrusted_folder"

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(
            f"{path} on the cluster belongs to another user, so nothing in it is run: find out who replaced it "
            "(`bouchet doctor` names folders that others can write to), or set another `root` in the site file"
        )


class NotAllowedError(GatewayError):
    """The program or path is not on the gateway's allowlist."""

    kind = "not_allowed"


class StalePromptError(GatewayError):
    """The prompt was answered already, or the server gave up on it."""

    kind = "stale_prompt"


class HostKeyNotTrustedError(GatewayError):
    """A host key was not accepted: it is not the offered one, has changed, or cannot be stored."""

    kind = "host_key_not_trusted"


class SlurmOutputError(BouchetError):
    """Slurm printed what this version cannot parse; `text` keeps it."""

    kind = "slurm_output"

    def __init__(self, program: str, text: str) -> None:
        self.program, self.text = program, text
        super().__init__(f"cannot parse the output of {program}: {text[:200]!r}")
