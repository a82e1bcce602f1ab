"""What to do about the last lines of a vLLM that ended. Pure.

The error lines are those of vLLM 0.19 to 0.33, PyTorch, CUDA, NCCL, Transformers, Triton and Apptainer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_Match = re.Match[str]

# lines of a main process that only report the failure of the process that knows the cause
_CONSEQUENCE = re.compile(
    r"Engine core initialization failed|See root cause above|EngineDeadError|Engine process failed|died unexpectedly"
    r"|validation errors? for \w+Response"
)
_ENGINE_DIED = "vLLM's engine was killed or crashed: launch again; if it ran out of memory, use more --gpus"
_TOO_LARGE = "it does not fit into GPU memory: use a smaller --max-len, --quant fp8, or more --gpus"
_OLD_DRIVER = "the node's NVIDIA driver is too old for this image: set `image:` in models.yaml to one for an older CUDA"
_GPU_FAULT = "the GPU or its node has a fault: launch again, and tell the site's support which node it was"
_NO_FABRIC = (
    "the node's NVIDIA fabric manager does not run: launch again, and tell the site's support which node it was"
)
_NCCL = (
    "the GPUs cannot talk to each other (NCCL): launch again; if it recurs, set `NCCL_DEBUG: INFO` under `env` of the "
    "model in models.yaml and look at `bouchet logs`, or use one node"
)
_SHM = "/dev/shm of the node is full: launch again, use fewer --gpus, or ask the site to enlarge it"
_CODE = "the model brings code of its own: after reading it, add --trust-remote-code to extra_args in models.yaml"
_PARSER_NAMES = "correct tool_parser or reasoning_parser in models.yaml, or use a newer image"
_RESUME = "`bouchet download` resumes the model"
_TRITON = (
    "the cache of compiled kernels cannot be on this file system: set `TRITON_CACHE_DIR: /tmp/triton` under `env` of "
    "the model in models.yaml"
)
_NO_COMPILER = "the image lacks a compiler that this model's kernels need: build it again with `bouchet image build`"
_SMALL_DTYPE = (
    "this GPU type lacks a number format that the model wants: add --dtype half to extra_args, or use newer GPUs"
)
_QUANT = "this GPU type or image cannot run the model's quantization: use another --quant, newer GPUs, or a newer image"
_LATE = (
    "the processes of the model did not find each other in time, mostly since one failed or the disk is slow: look "
    "at `bouchet logs` for another error, and launch again"
)
_LEFT_GPU = "another program holds the GPU: launch again, and tell the site's support which node it was"
_LIMITS = "a limit of the node (processes, threads or open files) is reached: launch again, and tell the site's support"
_WRONG_IMAGE = (
    "the image does not fit the node's libraries or GPUs: build it again, or use another `image:` in models.yaml"
)
_OFFLINE = f"files of the model are not on the cluster, where jobs have no internet: {_RESUME}"
_TEMPLATE = "the chat template cannot be used: correct chat_template in models.yaml, or use a newer image"
_WEIGHT_NAMES = (
    "the weights and this vLLM's code of the model do not match: use a newer image, or another --quant or checkpoint"
)
_DRAFT = "this vLLM cannot do that with a draft model: correct the speculative options in extra_args in models.yaml"

_NO_GPU = "the job found no GPU: launch again, or ask the site"
_OPTION = "correct that option in extra_args in models.yaml; `bouchet logs` shows which values it takes"
_BACKEND = (
    "this vLLM has no attention code for the model on this GPU type: remove such options from extra_args and env in "
    "models.yaml, or use a newer image or newer GPUs"
)
_READ_ONLY = (
    "something is written to a folder that jobs cannot write to: set its variable (such as `HF_HOME` or "
    "`VLLM_CACHE_ROOT`) to a folder in /tmp under `env` of the model in models.yaml"
)
_OLD_CODE = "the model's files and this image's libraries do not match: use a newer image, or another revision"
_NAMES = "a node's name is not known to another node: launch again, or use one node (--nodes 1); tell the site"
_CRASHED = (
    "a process of vLLM crashed: launch again; if it recurs, use a newer image, or remove options from extra_args in "
    "models.yaml"
)
_HOST_MEMORY = "the node ran out of host memory: more --gpus give it more memory"
_VOCABULARY = (
    "it wants a file from the internet, which jobs do not have: download it to the cluster, and name its folder under "
    "`env` of the model in models.yaml (gpt-oss: `TIKTOKEN_ENCODINGS_BASE`)"
)


def _max_len(found: _Match) -> str:
    return f"the context window does not fit beside the weights: use --max-len {found[1]} or less, or more --gpus"


def _model_window(found: _Match) -> str:
    return f"the model itself has a window of {found[1]} tokens: use --max-len {found[1]} or less"


def _heads(found: _Match) -> str:
    return f"{found[1]} heads of the model do not divide among {found[2]} GPUs: use --gpus with a divisor of {found[1]}"


def _no_parser(found: _Match) -> str:
    return f"this vLLM has no parser {found[1]}: {_PARSER_NAMES}"


def _parser(found: _Match) -> str:
    field = "tool_parser" if found[1] == "tool-call" else "reasoning_parser"
    return f"{field} in models.yaml does not match this model: correct or remove it"


def _module(found: _Match) -> str:
    return f"the image has no Python package {found[1]}, which this model needs: use another `image:` in models.yaml"


# (pattern, advice); the first match wins, so the narrow ones come first
_CAUSES: tuple[tuple[str, str | Callable[[_Match], str]], ...] = (
    # memory
    (r"estimated maximum model length is (\d+)", _max_len),
    (r"KV cache is needed, which is larger|No available memory for the cache blocks", _TOO_LARGE),
    (r"CUDA out of memory|OutOfMemoryError: (?:CUDA|HIP)|CUDA error: out of memory", _TOO_LARGE),
    (r"Free memory on device .* is less than desired", "another process uses memory of this GPU: launch again"),
    (r"/dev/shm|shared memory (?:object|segment)|</?torch_\d+|psm_\w+.*No space left", _SHM),
    # the node
    (
        r"driver on your system is too old|driver version is insufficient|unsupported display driver"
        r"|[Dd]river/library version mismatch",
        _OLD_DRIVER,
    ),
    (r"no kernel image is available", "this image does not support this GPU type: use another `image:` in models.yaml"),
    (r"\b[Ee]rror:? 802|system not yet initialized|[Ff]abric ?[Mm]anager", _NO_FABRIC),
    (
        r"device\(s\) is/are busy|all CUDA-capable devices are busy|exclusive.{0,20}(?:process|thread).{0,20}mode",
        _LEFT_GPU,
    ),
    (r"\bXid\b|\bECC\b|GPU is lost|fallen off the bus|[Uu]nable to determine the device handle", _GPU_FAULT),
    (r"gaierror|Name or service not known|Temporary failure in name resolution|hostname cannot be retrieved", _NAMES),
    (r"(?:client|server) socket has (?:failed to connect|timed out)|DistNetworkError.*(?:connect|[Tt]imed out)", _LATE),
    (r"DistStoreError|[Tt]imed out.{0,40}(?:clients|engine core|store|rendezvous)|RendezvousTimeout", _LATE),
    (r"gloo.{0,120}(?:[Cc]onnection (?:closed|reset|refused)|[Tt]imed out)|peer access is not supported", _NCCL),
    (r"NCCL|nccl[A-Z]\w+|unhandled (?:cuda|system) error", _NCCL),
    (
        r"No CUDA GPUs are available|Failed to infer device type|libcuda\.so\.1: cannot open|invalid device ordinal"
        r"|Found no NVIDIA driver|NVML Shared Library Not Found|NVMLError_(?:LibraryNotFound|DriverNotLoaded)"
        r"|NVML: Driver Not Loaded|device < num_gpus|nvidia-container-cli: initialization error",
        _NO_GPU,
    ),
    (r"cuDNN error|CUBLAS_STATUS_(?:NOT_INITIALIZED|ALLOC_FAILED)|CUDNN_STATUS_NOT_INITIALIZED", _TOO_LARGE),
    (r"CUBLAS_STATUS_\w+|CUDA_ERROR_MPS|NVML_SUCCESS == r|NVMLError_\w+|cuMem\w+ failed", _GPU_FAULT),
    (r"[Bb]float16 is (?:only|not) supported|[Bb]float16.{0,40}compute capability", _SMALL_DTYPE),
    (
        r"quantization method \S+ is not supported|Minimum capability: \d+|(?:FP8|fp8|NVFP4|MXFP4).{0,60}not support"
        r"|[Uu]nknown quantization method|not supported for quantization|quantized model does not support"
        r"|GGUF model.{0,60}not support",
        _QUANT,
    ),
    (r"CUDA error: (?:unspecified launch|an illegal|device-side|misaligned|hardware|unknown)", _GPU_FAULT),
    (
        r"(?:[Ii]nvalid|[Uu]nsupported|[Nn]o valid) attention backend|backend \S+ is not valid for this configuration"
        r"|backend for head size"
        r"|OutOfResources: out of resource: shared memory|DeepGEMM backend|FlashInfer is not installed",
        _BACKEND,
    ),
    # options and the catalog
    (r"unrecognized arguments: (.+)", lambda m: f"this vLLM has no option {m[1]}: correct extra_args in models.yaml"),
    (r"error: argument -\S+: |argument -\S+: invalid|VLLM_\w+=\S* is not supported|limit-mm-per-prompt", _OPTION),
    (r"[Uu]nknown (?:tool|reasoning)(?: call)? parser:? ['\"]?([\w.-]+)", _no_parser),
    (r"validation errors? for (?:\w*Config|EngineArgs)\b", _OPTION),
    (r"(?:LoRA|lora).{0,80}(?:greater than|not support)|(?:prefill|caching|window).{0,60}not supported", _OPTION),
    (r"--(tool-call|reasoning)-parser \S+ cannot be used", _parser),
    (r"invalid (?:tool call|tool|reasoning) parser:? ['\"]?([\w.-]+)", _no_parser),
    (
        r"(?:[Tt]ool|[Rr]easoning)[ _-](?:call[ _-])?parser:? ['\"`]?([\w.-]+)['\"`]? (?:is )?not (?:found|regist)",
        _no_parser,
    ),
    (r"trust_remote_code|trust-remote-code|contains custom code|requires you to execute", _CODE),
    (r"max_model_len \(\d+\) is greater than the derived max_model_len \([^)]*?=(\d+)", _model_window),
    (
        r"heads \(?(\d+)\)? (?:must be|is not) divisible by (?:the )?(?:tensor[ _]parallel[ _]size|tp_size) ?\(?(\d+)",
        _heads,
    ),
    (
        r"(?:must be|is not|not) divisible by (?:the )?"
        r"(?:tensor|tp\b|tp_size|weight quantization block|min_thread|\d+$)",
        "the model does not divide among this number of GPUs: use another --gpus, such as half of it",
    ),
    (r"[Ss]peculative decoding.{0,80}not supported|draft model.{0,60}not support", _DRAFT),
    # the model's files
    (r"chat[ _]template.{0,200}(?:fail|not found|No such file)|jinja2\.exceptions|TemplateSyntaxError", _TEMPLATE),
    (
        r"GatedRepoError|gated repo|LocalEntryNotFound|outgoing traffic|couldn't connect to 'https://huggingface"
        r"|host='(?:huggingface\.co|cdn-lfs|hf-mirror)",
        _OFFLINE,
    ),
    (r"openaipublic|download(?:ing)? or load(?:ing)? vocab file|HTTPS?ConnectionPool\(host=", _VOCABULARY),
    (r"^KeyError: ['\"](?:model|layers|language_model|lm_head|transformer)\.", _WEIGHT_NAMES),
    (
        r"'\w+Config' object has no attribute|cannot import name '\w+' from 'transformers|`rope_(?:scaling|parameters)`"
        r"|KeyError: 'original_max_position_embeddings'|Tokenizer class \S+ does not exist",
        _OLD_CODE,
    ),
    (r"no module or parameter named|[Cc]annot find the config file for \w+|size mismatch for", _WEIGHT_NAMES),
    (r"[Mm]odel architectures? .* not supported|does not recognize this architecture", "the model needs a newer image"),
    (r"SafetensorError|HeaderToo|MetadataIncomplete", "the weights are incomplete: `bouchet download` resumes them"),
    (
        r"(?:load|find|instantiate|No)\b.{0,60}tokenizer|tokenizer\S*.{0,60}(?:not found|No such file|does not exist)"
        r"|(?:file named|No such file or directory:).{0,200}tokenizer|Unable to load vocabulary",
        f"the model's tokenizer is missing or incomplete: {_RESUME}; one without needs --tokenizer in extra_args",
    ),
    (
        r"[Cc]annot find any model weights|No (?:safetensors|model) (?:weights|files)|not initialized from checkpoint"
        r"|(?:file named|No such file or directory:).{0,200}(?:\.safetensors|pytorch_model|\.bin\b)",
        f"weights of the model are missing: {_RESUME}",
    ),
    (
        r"(?:file named|No such file or directory:).{0,200}config\.json|config\.json.{0,60}(?:not found|No such file)"
        r"|Unrecognized model in|[Ii]nvalid repository ID or local directory",
        f"config.json of the model is missing: {_RESUME}",
    ),
    (r"image processor for|preprocessor_config|processor_config", f"a file of the model is missing: {_RESUME}"),
    (r"JSONDecodeError", f"a file of the model is cut off or no JSON: {_RESUME}"),
    # file systems
    (r"Read-only file system|Errno 30\b", _READ_ONLY),
    (
        r"[Ss]tale (?:NFS )?file handle|ESTALE|Errno 116",
        "a file was replaced on the network file system while it was read: launch again",
    ),
    (
        r"[Tt]riton.{0,200}(?:Errno|busy|denied|No such file)|Errno.{0,200}\.triton/|\.nfs[0-9a-f]{8,}|flock.*Errno",
        _TRITON,
    ),
    (r"No space left on device|Disk quota exceeded", "a disk is full: free some space in the site's directories"),
    (
        r"[Pp]ermission denied|PermissionError",
        "a file may not be read or written: check owner and mode of the site file's directories (`bouchet doctor`)",
    ),
    # the image
    (
        r"C compiler|\b(?:gcc|cc|nvcc|ninja)\b.{0,40}(?:not found|No such file)|Could not find nvcc|CUDA_HOME"
        r"|/(?:gcc|cc|g\+\+|nvcc|ninja)'.{0,200}non-zero exit|InductorError.{0,60}(?:gcc|g\+\+|nvcc)"
        r"|Python\.h: No such file|Ninja is required|NVCC compilation failed",
        _NO_COMPILER,
    ),
    (r"No module named '([\w.]+)'", _module),
    (r"packages that were not found in your environment: ([\w-]+)", _module),
    (r"^(?:ValueError|ImportError|RuntimeError): ([A-Z]\w+) is not installed", _module),
    (
        r"lib(?:cu|nv|stdc)\S+\.so\S*.{0,40}(?:cannot open|not found|version)|GLIBC(?:XX)?_[\d.]+' not found"
        r"|lib\w+\.so[.\d]*: cannot open shared|operator \w+::\w+ does not exist"
        r"|undefined symbol|ptxas fatal|--gpu-architecture|is not defined for option 'gpu-name'",
        _WRONG_IMAGE,
    ),
    (
        r"FATAL: .*([Ii]mage|squashfs|mount|rootfs|container creation)|squashfuse not found",
        "Apptainer cannot mount the image: check it with `bouchet image verify`",
    ),
    # the rest
    (r"Too many open files|can't start new thread|Resource temporarily unavailable|Errno (?:11|24)\b", _LIMITS),
    (
        r"Input/output error|Errno 5\b",
        "a disk of the node or the network file system failed: launch again, and tell the site's support if it recurs",
    ),
    (r"[Aa]ddress already in use", "another process took the port: launch again"),
    (r"Cannot assign requested address|Errno 99\b", _NAMES),
    (r"Cannot allocate memory|MemoryError|oom[_-]kill|OOM Killed|[Oo]ut [Oo]f memory: Killed|^Killed$", _HOST_MEMORY),
    (r"^Bus error", _SHM),
    (r"Segmentation fault|terminate called after|Re-initialize CUDA|re-initialize CUDA|c10::Error", _CRASHED),
)


def select_cause(tail: Sequence[str]) -> str:
    """Return the error line that names the cause best, empty when there is no line."""
    known = [line for line in tail if advice_for(line)]
    causes = [line for line in tail if not _CONSEQUENCE.search(line)]
    return (known or causes or list(tail[:1]) or [""])[-1]


def advice_for_cause(line: str) -> str:
    """Return what to do about the selected line, also when it only reports that an engine died."""
    return advice_for(line) or (_ENGINE_DIED if _CONSEQUENCE.search(line) else "")


def advice_for(line: str) -> str:
    """Return what to do about an error line, empty when that is not known."""
    for pattern, advice in _CAUSES:
        found = re.search(pattern, line)
        if found:
            return advice if isinstance(advice, str) else advice(found)
    return ""
