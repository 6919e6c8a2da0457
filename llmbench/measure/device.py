"""Which device runs the job, is it able to, and where was a Record made?

`resolve` turns "auto" into a device and dtype, or refuses in one line what is not there. `probe` is the one place that
sets something (threads). `environment` is the provenance that explains a number years later.
"""

import functools
import importlib.util
import os
import platform
import socket
import subprocess
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import psutil
import torch

from llmbench.config.job import HardwareConfig
from llmbench.errors import HardwareError
from llmbench.measure import cards
from llmbench.measure import ceilings as _ceilings
from llmbench.measure.nvml import Nvml
from llmbench.measure.probes import CpuProbe, CudaProbe, Probe, device_uuid
from llmbench.measure.threads import default_threads
from llmbench.record import Ceilings, Environment
from llmbench.version import __version__

PACKAGES = ("torch", "transformers", "tokenizers", "hydra-core", "mlflow", "bert-score", "numpy")
"""Distributions whose versions are recorded."""


def resolve(hardware: HardwareConfig) -> HardwareConfig:
    """Replace "auto" by what this machine has: cuda and bfloat16, else cpu and float32. Sets nothing.

    The engine "auto" is eager with quantized weights, and without Triton on CUDA; else it stays, because the checkpoint
    decides (`job.prepare`).

    A CUDA device without bfloat16 units (compute capability below 8.0) gets float16 under dtype "auto".

    Raises:
        HardwareError: a device that is not there, a dtype that it cannot compute in, or a library that is missing.
    """
    _require_library(hardware)
    device = hardware.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    triton = importlib.util.find_spec("triton") is not None  # comes with torch for CUDA, but not everywhere
    if hardware.engine == "auto":
        fuses = (device == "cpu" or triton) and hardware.quantization is None
        hardware = replace(hardware, engine="auto" if fuses else "eager")
    if hardware.engine == "fused" and device == "cuda" and not triton:
        raise HardwareError("hardware.engine: fused needs Triton, which is not installed; use hardware.engine=eager")
    if device == "cpu":
        if hardware.dtype == "float16":
            raise HardwareError(
                "hardware.dtype: float16 is not computed on the CPU; use hardware.dtype=float32 or bfloat16"
            )
        return replace(hardware, device="cpu", dtype="float32" if hardware.dtype == "auto" else hardware.dtype)
    if not torch.cuda.is_available():
        cause = (
            f"torch {torch.__version__} is built without CUDA"
            if torch.version.cuda is None
            else "no CUDA device is visible"
        )
        raise HardwareError(f"hardware.device: cuda was asked for, but {cause}; use hardware=cpu or hardware=auto")
    capability = torch.cuda.get_device_capability()
    if capability >= (8, 0):
        return replace(hardware, device="cuda", dtype="bfloat16" if hardware.dtype == "auto" else hardware.dtype)
    if hardware.dtype == "bfloat16":
        name, version = torch.cuda.get_device_name(), ".".join(map(str, capability))
        raise HardwareError(
            f"hardware.dtype: {name} (compute capability {version}) has no bfloat16; use hardware.dtype=float16"
        )
    return replace(hardware, device="cuda", dtype="float16" if hardware.dtype == "auto" else hardware.dtype)


def is_here(hardware: HardwareConfig) -> bool:
    """Whether this machine has the device; that for which a cluster's jobs are planned need not be here."""
    return hardware.device != "cuda" or torch.cuda.is_available()


def _require_library(hardware: HardwareConfig) -> None:
    if hardware.quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise HardwareError(
            f"hardware.quantization: {hardware.quantization} needs bitsandbytes, which is not installed; "
            'pip install "llmbench[quantization]"'
        )


def free_bytes(hardware: HardwareConfig) -> int:
    """Bytes that this process can still get on a resolved hardware's device; what its allocator only keeps included."""
    if hardware.device == "cpu":
        return int(psutil.virtual_memory().available)
    if not torch.cuda.memory_reserved():  # nothing runs here yet: the driver is asked, which takes no memory
        free = Nvml(device_uuid()).free_bytes()
        if free is not None:
            return free
    kept: int = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return int(torch.cuda.mem_get_info()[0]) + kept


def probe(hardware: HardwareConfig) -> Probe:
    """The readings of a resolved hardware. Sets torch's thread count, for this job and back again for the next."""
    default = default_threads()  # before anybody changes it
    torch.set_num_threads(hardware.threads or default)
    return CudaProbe() if hardware.device == "cuda" else CpuProbe()


def ceilings(hardware: HardwareConfig, weight_bytes: int) -> Ceilings:
    """What this device can do at most, and whether that bounds a model of `weight_bytes`."""
    return _ceilings.measure(hardware, weight_bytes)


def environment(hardware: HardwareConfig) -> Environment:
    """Where a Record is made: device, software, code. What cannot be found out is None, "" or a missing key."""
    asked = hardware.device == "cuda"
    cuda = asked and torch.cuda.is_available()  # jobs for a cluster are planned where there may be no card
    commit, dirty = _git(Path(__file__).resolve().parents[2])
    return Environment(
        device=hardware.device,
        device_name=torch.cuda.get_device_name() if cuda else "" if asked else _cpu_name(),
        driver=Nvml(device_uuid()).driver() if cuda else None,
        threads=hardware.threads or default_threads(),
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        python=platform.python_version(),
        platform=platform.platform(),
        versions=_versions(cuda, hardware.quantization is not None),
        git_commit=commit,
        git_dirty=dirty,
        device_uuid=device_uuid() if cuda else None,
        others_timing=cards.others_held(device_uuid()) if cuda else None,
    )


def process() -> str:
    """This process: host, process id and start time (Unix seconds). The same in all of its jobs, and no other's."""
    return f"{socket.gethostname()}:{os.getpid()}:{_start_time(os.getpid()):.2f}"


@functools.cache
def _start_time(pid: int) -> float:
    """Read once a process (also one that was forked): a clock that is set later would change it."""
    return psutil.Process(pid).create_time()


def _versions(cuda: bool, quantized: bool) -> dict[str, str]:
    versions = {"llmbench": __version__}
    for package in (*PACKAGES, *(["bitsandbytes"] if quantized else [])):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if cuda:
        driven = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}  # type: ignore[no-untyped-call]
        versions |= {name: str(version) for name, version in driven.items() if version is not None}
    return versions


def _cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's model as Linux names it, else what Python's platform module knows."""
    try:
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model") and value.strip():
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(folder: Path) -> tuple[str | None, bool | None]:
    """Commit of `folder` and whether files differ from it; (None, None) where it is not the top of a checkout.

    An installed copy inside somebody's repository (a virtual environment) must not carry that repository's commit. For
    a clean copy without its repository (a container) LLMBENCH_COMMIT names the commit.
    """
    if commit := os.environ.get("LLMBENCH_COMMIT"):
        return commit, False

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():
        return None, None
    commit, changes = git("rev-parse", "--verify", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    if commit is None:
        return None, None
    return commit, None if changes is None else bool(changes)
