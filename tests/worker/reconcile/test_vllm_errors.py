"""Last lines of vLLM and of its libraries: each gets the advice that helps."""

from __future__ import annotations

import pytest
from bouchet_worker.reconcile.vllm_errors import advice_for

# a piece of the advice -> lines that deserve it
LINES = {
    "the job found no GPU": (
        "RuntimeError: CUDA error: invalid device ordinal",
        "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
        "pynvml.NVMLError_LibraryNotFound: NVML Shared Library Not Found",
        "torch.cuda.DeferredCudaCallError: CUDA call failed lazily at initialization with error: device < num_gpus",
    ),
    "driver is too old": ("RuntimeError: Failed to initialize NVML: Driver/library version mismatch",),
    "GPU or its node has a fault": (
        "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
        "RuntimeError: NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp",
    ),
    "does not divide among this number": (
        "AssertionError: 40 is not divisible by 3",
        "ValueError: Weight input_size_per_partition = 5472 is not divisible by min_thread_k = 128.",
    ),
    "no attention code": (
        "ValueError: Selected backend AttentionBackendEnum.FLASH_ATTN is not valid for this configuration.",
        "ValueError: Invalid attention backend: FLASHMLA",
        "triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 262144, Hardware limit: 2",
        "ImportError: FlashInfer is not installed but is required",
    ),
    "correct that option in extra_args": (
        "vllm serve: error: argument --max-model-len: invalid human_readable_int_or_auto value: '64kk'",
        "vllm serve: error: argument --dtype: invalid choice: 'fp9' (choose from 'auto', 'bfloat16')",
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
        "ValueError: LoRA rank 64 is greater than max_lora_rank 16.",
        "ValueError: limit-mm-per-prompt is only supported for multimodal models.",
    ),
    "has no parser qwen9": ("KeyError: \"Unknown tool parser: 'qwen9'\"",),
    "this image's libraries do not match": (
        "AttributeError: 'Qwen3Config' object has no attribute 'rope_theta'",
        "ImportError: cannot import name 'Qwen9Config' from 'transformers'",
        "ValueError: Tokenizer class Foo does not exist or is not currently imported.",
    ),
    "code of the model do not match": ("KeyError: 'model.layers.0.mlp.experts.w2_weight'",),
    "no Python package flash_attn,": (
        "ImportError: This modeling file requires the following packages that were not found in your environment: "
        "flash_attn. Run `pip install flash_attn`",
    ),
    "lacks a compiler": (
        "subprocess.CalledProcessError: Command '['/usr/bin/gcc', '/tmp/x/main.c']' returned non-zero exit status 1.",
        "fatal error: Python.h: No such file or directory",
        "RuntimeError: Ninja is required to load C++ extensions",
    ),
    "folder that jobs cannot write to": ("OSError: [Errno 30] Read-only file system: '/root/.cache/vllm'",),
    "not known to another node": (
        "socket.gaierror: [Errno -2] Name or service not known",
        "OSError: [Errno 99] Cannot assign requested address",
    ),
    "in time, mostly": (
        "torch.distributed.DistNetworkError: The client socket has failed to connect to any network address of (n, 1).",
    ),
    "another process took the port": (
        "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. "
        "port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use",
    ),
    "ran out of host memory": (
        "slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch. Some of the step tasks have been OOM Killed.",
    ),
    "files of the model are not on the cluster": (
        "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='huggingface.co', port=443): Max",
    ),
    "wants a file from the internet": (
        "openai_harmony.HarmonyError: error downloading or loading vocab file: failed to download or load vocab file",
        "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='openaipublic.blob.core.windows.net', port=443)",
    ),
    "process of vLLM crashed": (
        "Fatal Python error: Segmentation fault",
        "terminate called after throwing an instance of 'c10::Error'",
    ),
    "cut off or no JSON": ("json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",),
    "did not find each other in time": (
        "torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 clients joined.",
        "TimeoutError: Timed out waiting for engine core processes to start. This is often caused by slow weight "
        "loading for large models. Waited 3600s",
    ),
    "cannot talk to each other": (
        "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.1.0.4]:42311",
        "torch.AcceleratorError: CUDA error: peer access is not supported between these two devices",
    ),
    "--dtype half": (
        "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla V100-SXM2 "
        "GPU has compute capability 7.0.",
    ),
    "cannot run the model's quantization": (
        "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum capability: 89. "
        "Current capability: 80.",
    ),
    "do not match": (
        "ValueError: Cannot find the config file for awq",
        "ValueError: There is no module or parameter named 'model.layers.0.mlp.gate_up_proj.weight_scale_inv' in "
        "Qwen3ForCausalLM",
    ),
    "`bouchet download` resumes": (
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find the requested files in the disk cache and "
        "outgoing traffic has been disabled.",
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them there",
        "huggingface_hub.errors.GatedRepoError: 401 Client Error. Cannot access gated repo for url https://hf.co/m",
    ),
    "does not fit the node's libraries": (
        "ImportError: libcudart.so.13: cannot open shared object file: No such file or directory",
        "ImportError: /usr/lib/x86_64-linux-gnu/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by _C.so)",
        "ImportError: /opt/vllm/_C.abi3.so: undefined symbol: _ZN3c106ivalue14ConstantString6createE",
        "ptxas fatal   : Value 'sm_120a' is not defined for option 'gpu-name'",
        "nvrtc: error: invalid value for --gpu-architecture (-arch)",
    ),
    "another program holds the GPU": (
        "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable",
    ),
    "does not fit into GPU memory": (
        "RuntimeError: cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ),
    "a limit of the node": (
        "OSError: [Errno 24] Too many open files: '/gpfs/model'",
        "BlockingIOError: [Errno 11] Resource temporarily unavailable",
        "RuntimeError: can't start new thread",
    ),
    "file system failed": ("OSError: [Errno 5] Input/output error",),
    "chat template cannot be used": (
        "jinja2.exceptions.TemplateSyntaxError: Encountered unknown tag 'generation'.",
        "ValueError: The supplied chat template (/data/t.jinja) looks like a file path, but it failed to be opened. "
        "Reason: [Errno 2] No such file or directory: '/data/t.jinja'",
    ),
    "draft model": ("AssertionError: Speculative decoding with draft model is not supported yet.",),
}
CASES = [(line, advice) for advice, lines in LINES.items() for line in lines]


@pytest.mark.parametrize(("line", "advice"), CASES)
def test_line_gets_its_advice(line: str, advice: str) -> None:
    assert advice in advice_for(line)


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("ValueError: Failed to load the tokenizer: No such file or directory", "tokenizer"),
        ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "does not fit into GPU memory"),
        ("RuntimeError: NCCL error: unhandled system error", "NCCL"),
        ("libcuda.so.1: cannot open shared object file: No such file or directory", "found no GPU"),
        ("OSError: [Errno 116] Stale file handle: '/gpfs/x'", "replaced on the network file system"),
    ],
)
def test_wider_patterns_leave_the_narrow_ones(line: str, advice: str) -> None:
    assert advice in advice_for(line)


@pytest.mark.parametrize("line", ["", "Traceback (most recent call last):", "INFO: Started server process [1]"])
def test_line_without_a_cause_gets_none(line: str) -> None:
    assert advice_for(line) == ""
