"""What people are told: why a job waits, what would start sooner, why sbatch refused, why vLLM ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from bouchet_core.deployments import Placement
from bouchet_worker.reconcile.endings import advice_for, advice_for_cause, select_cause
from bouchet_worker.slurm.error_messages import describe_refusal, explain_outage
from bouchet_worker.slurm.pending_reasons import describe_pending_reason, suggest_earlier_start

# JOB REASON CODES of squeue's manual, 24.11, those that a job with GPUs can have
MANUAL_24_11 = (Path(__file__).parents[1] / "slurm_output" / "reasons_24.11.txt").read_text().split()
PLACE = Placement(partition="gpu_devel", gpus=2, gpu_type="h200", nodes=1, cpus=12, memory_gib=480, walltime_s=3600)


@pytest.mark.parametrize("reason", MANUAL_24_11)
def test_every_reason_of_the_manual_has_words_of_its_own(reason: str) -> None:
    words = describe_pending_reason(reason)
    assert not words.startswith("waiting in the queue")
    assert words.endswith(f"({reason})")
    assert "{" not in words


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("QOSMaxGRESPerUser", "limit of GPUs that you may hold"),
        ("AssocGrpGRES", "limit of GPUs that your group may hold"),
        ("QOSGrpJobsLimit", "your group runs as many jobs"),
        ("QOSMaxWallDurationPerJobLimit", "launch with a shorter --time"),
        ("QOSMaxGRESPerJob", "never start; cancel it and launch with less"),
        ("QOSMinGRES", "launch with more"),
        ("AssocGrpCPUMinutesLimit", "computing time of your group"),
        ("QOSMaxSubmitJobPerUserLimit", "submitted jobs"),
        ("ReqNodeNotAvail, Reserved for maintenance", "sooner with a shorter --time"),
        ("ReqNodeNotAvail(Unavailable:node[1-2])", "down, drained or reserved"),
        ("Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions", "kept for"),
        ("launch_failed_requeued_held", "cancel it and launch again"),
        ("launch failed requeued held", "cancel it and launch again"),
        ("job_requeued_in_held_state", "`scontrol release`"),
        ("Brand_New_Reason", "waiting in the queue (Brand_New_Reason)"),
    ],
)  # fmt: skip
def test_limits_say_whose_they_are_and_sentences_are_read(reason: str, words: str) -> None:
    assert words in describe_pending_reason(reason)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "shorter --time"),
        ("Resources", "--partition auto"),
        ("QOSMaxJobsPerUserLimit", "end one of your jobs in gpu_devel"),
        ("QOSMaxGRESPerUser", "fewer --gpus"),
        ("QOSGrpGRES", "your group's"),
    ],
)
def test_what_would_start_sooner(reason: str, words: str) -> None:
    assert words in suggest_earlier_start(reason, PLACE)


@pytest.mark.parametrize(
    "reason", ["BeginTime", "QOSMaxGRESPerJob", "Dependency", "JobHeldUser", "Brand_New_Reason", ""]
)
def test_nothing_is_promised_where_nothing_is_known(reason: str) -> None:
    assert suggest_earlier_start(reason, PLACE) == ""
    assert suggest_earlier_start("Priority", None) == ""


# as sbatch prints it: 24.11 from a running cluster, older ones from their slurm_errno.c
@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
         "accounting/QOS policy (job submit limit, user's size and/or time limits)\n", "no further job of yours"),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available\n", "fewer --gpus"),
        ("sbatch: error: Invalid generic resource (gres) specification\n", "no such GPUs"),
        ("sbatch: error: Batch job submission failed: Invalid qos specification\n", "--qos"),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified\n",
         "--account"),
        ("sbatch: error: Batch job submission failed: Invalid feature specification\n", "--constraint"),
        ("sbatch: error: invalid partition specified: nope\n", "--partition"),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
         "shorter --time"),
        ("sbatch: error: Memory specification can not be satisfied\n", "memory_per_gpu_gib"),
    ],
)  # fmt: skip
def test_a_refusal_repeats_slurm_and_says_what_to_do(stderr: str, words: str) -> None:
    told = describe_refusal(stderr)
    assert words in told and told.startswith("Slurm refused it: ")
    assert "\n" not in told and "sbatch: error" not in told


def test_an_unknown_refusal_is_repeated_alone() -> None:
    assert describe_refusal("sbatch: error: The moon is full\n") == "Slurm refused it: The moon is full"
    assert describe_refusal("") == "Slurm refused it: it printed no error"


OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.16 GiB. GPU 0 has a total capacity of 139.8 GiB"
ECHO = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
WINDOW = (
    "ValueError: To serve at least one request with the model's max seq len (262144), (24.00 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (6.21 GiB). Based on the available memory, the estimated "
    "maximum model length is 67808. Try increasing `gpu_memory_utilization` or decreasing `max_model_len`"
)


def test_the_cause_is_told_and_not_its_echo() -> None:
    assert select_cause(["ValueError: something else", OOM, ECHO]) == OOM
    assert select_cause(["KeyError: 'x'", ECHO]) == "KeyError: 'x'"
    assert select_cause([ECHO]) == ECHO
    assert select_cause([]) == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (OOM, "--max-len, --quant fp8, or more --gpus"),
        (WINDOW, "--max-len 67808 at most"),
        ("RuntimeError: The NVIDIA driver on your system is too old (found version 12040).", "older CUDA"),
        ("RuntimeError: No CUDA GPUs are available", "launch again"),
        ("OSError: [Errno 28] No space left on device", "make room"),
        ("api_server.py: error: unrecognized arguments: --moon-phase full", "no option --moon-phase full"),
        (
            "TypeError: --tool-call-parser llama3_json cannot be used with the tokenizer of '/m': no token",
            "tool_parser in",
        ),
        ("TypeError: --reasoning-parser x cannot be used with the tokenizer of '/m': no token", "reasoning_parser in"),
        ("ValueError: Model architectures ['NewForCausalLM'] are not supported for now.", "newer image"),
        ("safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer", "download"),
    ],
)
def test_what_to_do_about_it(line: str, words: str) -> None:
    assert words in advice_for(line)


def test_nothing_is_advised_about_the_unknown() -> None:
    assert advice_for("KeyError: 'moon'") == ""


def test_an_engine_that_is_gone_is_the_cause_only_where_nothing_else_is() -> None:
    gone = "Engine core proc EngineCore died unexpectedly, shutting down client."
    assert advice_for(gone) == "" and "killed or crashed: launch again" in advice_for_cause(select_cause([gone]))
    later = "pydantic_core._pydantic_core.ValidationError: 2 validation errors for ChatCompletionStreamResponse"
    assert select_cause([gone, later]) == gone
    assert select_cause(["ValueError: no such thing", gone]) == "ValueError: no such thing"
    cut = "FATAL:   container creation failed: image driver mount failure: image driver squashfuse_ll instance exited"
    assert "`bouchet image verify`" in advice_for_cause(select_cause([cut]))


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ("squeue did not end within 20 s and was killed", "controller"),
        ("scontrol did not end within 20 s", "controller"),
        (
            "squeue ended with status 1: slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
            "controller",
        ),
        (
            "sbatch ended with status 1: sbatch: error: Unable to contact slurm controller (connect failure)",
            "controller",
        ),
        ("sacct did not end within 20 s and was killed", "accounting"),
        ("sacct ended with status 1: sacct: error: slurm_persist_conn_open: to slurmdbd", "accounting"),
    ],
)
def test_a_slurm_that_does_not_answer_is_named_with_what_to_do(said: str, part: str) -> None:
    words = explain_outage(said)
    assert words.startswith(f"Slurm's {part} does not answer ({said}): nothing is ended") and "support" in words


@pytest.mark.parametrize(
    "message", ["the tunnel is down", "probe_login_node.py did not end within 60 s", "cat did not end within 9 s"]
)
def test_other_silence_is_told_as_it_is(said: str) -> None:
    assert explain_outage(said) == said
