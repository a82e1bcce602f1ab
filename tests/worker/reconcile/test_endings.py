"""Why jobs ended, and what is advised."""

from __future__ import annotations

import pytest
from bouchet_core.deployments import Ending, Phase
from bouchet_core.policy import Policy
from bouchet_worker.reconcile.endings import SENTENCES, classify_ending
from bouchet_worker.reconcile.observation import EndFile, JobStatus
from bouchet_worker.reconcile.vllm_errors import advice_for, advice_for_cause, select_cause
from bouchet_worker.slurm.states import STATES, State, StateClass

from .test_decide import record_in

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.16 GiB. GPU 0 has a total capacity of 139.8 GiB"
CONSEQUENCE = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
ENGINE_DIED = "Engine core proc EngineCore died unexpectedly, shutting down client."
RESPONSE_ERROR = "pydantic_core._pydantic_core.ValidationError: 2 validation errors for ChatCompletionStreamResponse"
WINDOW = (
    "ValueError: To serve at least one request with the model's max seq len (262144), (24.00 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (6.21 GiB). Based on the available memory, the estimated "
    "maximum model length is 67808. Try increasing `gpu_memory_utilization` or decreasing `max_model_len`"
)
SQUASHFS = "FATAL:   container creation failed: image driver mount failure: image driver squashfuse_ll instance exited"


def end_file(kind: str | None, sentence: str = "as noted", **fields: object) -> EndFile | None:
    return EndFile.model_validate({"job_name": "x", "kind": kind, "sentence": sentence, **fields}) if kind else None


def test_every_ended_state_has_a_sentence() -> None:
    assert set(SENTENCES) == {state for state in State if STATES[state].state_class is StateClass.ENDED}


@pytest.mark.parametrize(
    ("state", "state_text", "kind", "stop", "ending", "part"),
    [
        (State.CANCELLED, "CANCELLED by 2001", None, True, Ending.CANCELLED, "on request"),
        (State.CANCELLED, "CANCELLED by 0", None, False, Ending.CANCELLED, "cancelled by an unknown user"),
        (State.OUT_OF_MEMORY, "OUT_OF_MEMORY", "vllm_exited", False, Ending.FAILED, "240 GiB"),
        (State.NODE_FAIL, "NODE_FAIL", "vllm_exited", True, Ending.FAILED, "node node1 failed"),
        (State.PREEMPTED, "PREEMPTED", "stopped", False, Ending.PREEMPTED, "on gpu_h200"),
        (State.TIMEOUT, "TIMEOUT", None, False, Ending.TIMED_OUT, "06:00:00"),
        (State.COMPLETED, "COMPLETED", "walltime", False, Ending.TIMED_OUT, "as noted"),
        (State.COMPLETED, "COMPLETED", "idle", False, Ending.IDLE, "as noted"),
        (State.FAILED, "FAILED", "refused", False, Ending.FAILED, "as noted"),
        (State.FAILED, "FAILED", None, False, Ending.FAILED, "bouchet logs aa"),
        (None, "", None, False, Ending.FAILED, "no longer knows job 7"),
        (None, "", "idle", False, Ending.IDLE, "as noted"),
    ],
)
def test_classify_ending_prefers_the_source_that_knows_the_cause(
    state: State | None, state_text: str, kind: str | None, stop: bool, ending: Ending, part: str
) -> None:
    record = record_in(Phase.READY, stop=stop)
    assert record.job is not None
    status = JobStatus(state, state_text, node="node1", exit_code="1:0") if state else None
    found, sentence = classify_ending(record, record.job, status, end_file(kind))
    assert found is ending and part in sentence


@pytest.mark.parametrize(
    ("times", "warm_start"),
    [
        ({}, ""),
        ({"queue": 900.0, "boot": 20.4}, ""),
        ({"queue": 900.0, "image": 2.0, "boot": 20.4, "load": 90.0, "compile": 30.0, "ready": 1042.4}, "142 s"),
    ],
)
def test_classify_ending_of_idle_job_estimates_next_start(times: dict[str, float], warm_start: str) -> None:
    record = record_in(Phase.READY, changes={"times": times})
    assert record.job is not None
    _, sentence = classify_ending(record, record.job, None, end_file("idle", "idle for 45 min"))
    assert sentence.startswith(f"idle for 45 min; `bouchet launch {record.model}`")
    assert ("(warm)" in sentence) is bool(warm_start) and warm_start in sentence


@pytest.mark.parametrize(
    ("exit_code", "kind", "part"),
    [
        ("73:0", None, "could not write its files in /data/logs from node node1"),
        ("0:53", None, "could not open the job's log in /data/logs on node node1"),
        ("73:0", "refused", "as noted"),
        ("1:0", None, "exit code 1:0"),
    ],
)
def test_classify_ending_explains_exit_code_without_end_file(exit_code: str, kind: str | None, part: str) -> None:
    record = record_in(Phase.STARTING, changes={"log": "/data/logs/7.log"})
    assert record.job is not None
    status = JobStatus(State.FAILED, "FAILED", node="node1", exit_code=exit_code)
    found, sentence = classify_ending(record, record.job, status, end_file(kind))
    assert found is Ending.FAILED and part in sentence


@pytest.mark.parametrize(
    ("tail", "exit_status", "parts"),
    [
        ((OOM, CONSEQUENCE), 1, ("vLLM ended", OOM, "--max-len")),
        (("KeyError: 'moon'",), 1, ("vLLM ended", "KeyError: 'moon'")),
        ((), 137, ("vLLM ended", "more --gpus")),
    ],
)
def test_classify_ending_of_failed_vllm_names_cause_and_advice(
    tail: tuple[str, ...], exit_status: int, parts: tuple[str, ...]
) -> None:
    record = record_in(Phase.STARTING)
    assert record.job is not None
    written = end_file("vllm_exited", "vLLM ended", tail=tail, exit_status=exit_status)
    _, sentence = classify_ending(record, record.job, JobStatus(State.FAILED, "FAILED"), written)
    assert [part for part in parts if part not in sentence] == []


@pytest.mark.parametrize(
    ("tail", "cause"),
    [
        (["ValueError: something else", OOM, CONSEQUENCE], OOM),
        (["KeyError: 'x'", CONSEQUENCE], "KeyError: 'x'"),
        ([CONSEQUENCE], CONSEQUENCE),
        ([ENGINE_DIED, RESPONSE_ERROR], ENGINE_DIED),
        (["ValueError: no such thing", ENGINE_DIED], "ValueError: no such thing"),
        ([], ""),
    ],
)
def test_select_cause_skips_consequences(tail: list[str], cause: str) -> None:
    assert select_cause(tail) == cause


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (OOM, "--quant fp8"),
        (WINDOW, "--max-len 67808 or less"),
        ("RuntimeError: The NVIDIA driver on your system is too old (found version 12040).", "older CUDA"),
        ("RuntimeError: No CUDA GPUs are available", "launch again"),
        ("OSError: [Errno 28] No space left on device", "free some space"),
        ("api_server.py: error: unrecognized arguments: --moon-phase full", "no option --moon-phase full"),
        (
            "TypeError: --tool-call-parser llama3_json cannot be used with the tokenizer of '/m': no token",
            "tool_parser in",
        ),
        ("TypeError: --reasoning-parser x cannot be used with the tokenizer of '/m': no token", "reasoning_parser in"),
        ("ValueError: Model architectures ['NewForCausalLM'] are not supported for now.", "newer image"),
        ("safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer", "download"),
        (SQUASHFS, "`bouchet image verify`"),
        ("RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)", "NCCL_DEBUG"),
        (
            "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled cuda error",
            "(NCCL)",
        ),
        ("ValueError: The repository /m/x contains custom code which must be executed", "--trust-remote-code"),
        ("Please pass the argument `trust_remote_code=True` to allow custom code to be run.", "--trust-remote-code"),
        (
            "ValueError: User-specified max_model_len (262144) is greater than the derived max_model_len "
            "(max_position_embeddings=40960.0 or model_max_length=None in model's config.json).",
            "--max-len 40960 or less",
        ),
        (
            "ValueError: Total number of attention heads (40) must be divisible by tensor parallel size (3).",
            "40 heads of the model do not divide among 3 GPUs",
        ),
        ("AssertionError: 151936 is not divisible by tp_size 7", "another --gpus"),
        ("OSError: Can't load tokenizer for '/m/x'. If you were trying to load it from", "tokenizer is missing"),
        ("ValueError: Couldn't instantiate the backend tokenizer from one of:", "tokenizer is missing"),
        ("OSError: /m/x does not appear to have a file named config.json.", "config.json of the model is missing"),
        ("ValueError: Unrecognized model in /m/x. Should have a `model_type` key", "config.json of the model"),
        ("RuntimeError: Cannot find any model weights with `/m/x`", "weights of the model are missing"),
        (
            "FileNotFoundError: No such file or directory: '/m/x/model-00002-of-00004.safetensors'",
            "weights of the model",
        ),
        ("RuntimeError: CUDA error: uncorrectable ECC error encountered", "a fault"),
        ("NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus", "a fault"),
        ("RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized", "fabric"),
        (
            "OSError: [Errno 16] Device or resource busy: '/home/u/.triton/cache/ab/.nfs00000000008a'",
            "TRITON_CACHE_DIR",
        ),
        ("OSError: [Errno 39] Directory not empty: '/home/u/.triton/cache/tmp.pid_7'", "TRITON_CACHE_DIR"),
        ("OSError: [Errno 116] Stale file handle: '/m/x/config.json'", "launch again"),
        ("RuntimeError: Failed to find C compiler. Please specify via CC environment variable.", "image build"),
        ("KeyError: 'invalid tool call parser: qwen9 (chose from { hermes })'", "no parser qwen9"),
        ("ValueError: Reasoning parser 'deep' not found. Available parsers: qwen3", "no parser deep"),
        (
            "RuntimeError: unable to open shared memory object </torch_1> in read-write mode: No space left on device",
            "/dev/shm of the node is full",
        ),
        ("ModuleNotFoundError: No module named 'flash_attn'", "no Python package flash_attn"),
        ("ImportError: libcuda.so.1: cannot open shared object file", "the job found no GPU"),
    ],
)
def test_advice_for_known_error_line(line: str, part: str) -> None:
    assert part in advice_for(line)


def test_advice_for_unknown_error_line_is_empty() -> None:
    assert advice_for("KeyError: 'moon'") == ""


def test_advice_for_dead_engine_only_when_it_is_the_cause() -> None:
    assert advice_for(ENGINE_DIED) == "" and "launch again" in advice_for_cause(ENGINE_DIED)


def test_ended_job_of_a_kept_deployment_does_not_ask_for_a_launch() -> None:
    record = record_in(Phase.READY)
    kept = record.model_copy(update={"policy": Policy(keep="forever")})
    assert kept.job is not None
    for state in SENTENCES:
        status = JobStatus(state, state, node="node1", exit_code="1:0")
        _, alone = classify_ending(record, kept.job, status, None)
        _, sentence = classify_ending(kept, kept.job, status, None)
        assert "launch again" not in sentence
        assert ("another job follows" in sentence) == ("launch again" in alone)
    _, sentence = classify_ending(kept, kept.job, None, end_file("idle"))
    assert sentence == "as noted; the next request starts it again"
