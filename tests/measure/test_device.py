"""Which device is picked, what is refused in one line, and what provenance says."""

import os
import socket
import subprocess
from pathlib import Path

import psutil
import pytest
import torch
from child import Child

import llmbench
from llmbench.config.job import HardwareConfig
from llmbench.errors import HardwareError
from llmbench.measure import device
from llmbench.measure.probes import CpuProbe

CPU = HardwareConfig(device="cpu", dtype="float32")


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: request.param)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize(
    ("asked", "got"),
    [
        (("auto", "auto"), ("cpu", "float32")),
        (("auto", "bfloat16"), ("cpu", "bfloat16")),
        (("cpu", "auto"), ("cpu", "float32")),
        (("cpu", "float32"), ("cpu", "float32")),
    ],
)
def test_without_a_gpu_auto_is_the_cpu_in_float32(asked: tuple, got: tuple) -> None:  # type: ignore[type-arg]
    resolved = device.resolve(HardwareConfig(device=asked[0], dtype=asked[1], threads=3))
    assert resolved == HardwareConfig(device=got[0], dtype=got[1], engine="auto", threads=3)  # the checkpoint's choice


def test_a_copy_without_a_repository_is_told_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMBENCH_COMMIT", "0123abc")
    made = device.environment(HardwareConfig(device="cpu", dtype="float32", engine="eager"))
    assert (made.git_commit, made.git_dirty) == ("0123abc", False)


def test_a_process_keeps_its_name_and_shares_it_with_no_other() -> None:
    named = device.process()
    host, pid, start = named.rsplit(":", 2)
    assert (host, int(pid)) == (socket.gethostname(), os.getpid())
    assert float(start) == pytest.approx(psutil.Process().create_time(), abs=2)
    assert device.process() == named
    program = "from llmbench.measure import device; print(device.process())"
    other = Child(Path.cwd(), ("-c", program), os.environ).communicate()
    assert other.returncode == 0, other.stderr
    assert other.stdout.strip() != named
    assert device.environment(CPU).device_uuid is None


@pytest.mark.parametrize("gpu", [(9, 0)], indirect=True)
@pytest.mark.usefixtures("gpu")
def test_the_fused_engine_needs_triton_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: None)
    assert device.resolve(HardwareConfig(device="cpu", engine="fused")).engine == "fused"
    assert device.resolve(HardwareConfig(device="cuda", engine="auto")).engine == "eager"
    with pytest.raises(HardwareError, match="engine: fused needs Triton"):
        device.resolve(HardwareConfig(device="cuda", engine="fused"))


@pytest.mark.parametrize(
    ("gpu", "asked", "got"),
    [
        ((9, 0), ("auto", "auto"), ("cuda", "bfloat16")),
        ((9, 0), ("cuda", "float16"), ("cuda", "float16")),
        ((8, 0), ("cuda", "auto"), ("cuda", "bfloat16")),
        ((7, 0), ("auto", "auto"), ("cuda", "float16")),
        ((7, 0), ("cuda", "float32"), ("cuda", "float32")),
        ((9, 0), ("cpu", "auto"), ("cpu", "float32")),
    ],
    indirect=["gpu"],
)
@pytest.mark.usefixtures("gpu")
def test_with_a_gpu_auto_is_cuda_in_the_best_dtype_it_has(asked: tuple, got: tuple) -> None:  # type: ignore[type-arg]
    resolved = device.resolve(HardwareConfig(device=asked[0], dtype=asked[1]))
    assert (resolved.device, resolved.dtype) == got


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("cuda", "auto"), ("hardware.device", "cuda", "hardware=cpu")),
        (("cuda", "bfloat16"), ("hardware.device", "cuda", "hardware=cpu")),
        (("cpu", "float16"), ("hardware.dtype", "float16", "float32")),
        (("auto", "float16"), ("hardware.dtype", "float16", "float32")),
    ],
)
def test_what_is_not_there_is_refused_in_one_line_that_says_what_to_change(asked: tuple, said: tuple) -> None:  # type: ignore[type-arg]
    with pytest.raises(HardwareError) as caught:
        device.resolve(HardwareConfig(device=asked[0], dtype=asked[1]))
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in said)


@pytest.mark.parametrize("gpu", [(7, 5)], indirect=True)
@pytest.mark.usefixtures("gpu")
def test_bfloat16_on_a_gpu_without_it_is_refused() -> None:
    with pytest.raises(HardwareError, match=r"hardware\.dtype: Tesla V100 .*7\.5.* no bfloat16.*float16"):
        device.resolve(HardwareConfig(device="cuda", dtype="bfloat16"))


def test_resolving_sets_nothing_and_the_probe_sets_threads_for_one_job_only() -> None:
    own = torch.get_num_threads()
    try:
        device.probe(CPU)  # learns torch's own choice
        asked = HardwareConfig(device="cpu", dtype="float32", threads=own + 1)
        device.resolve(asked)
        assert torch.get_num_threads() == own
        assert isinstance(device.probe(asked), CpuProbe)
        assert torch.get_num_threads() == own + 1
        device.probe(CPU)
        assert torch.get_num_threads() == own
    finally:
        torch.set_num_threads(own)


def test_environment_names_device_threads_and_versions() -> None:
    found = device.environment(HardwareConfig(device="cpu", dtype="float32", threads=7))
    assert (found.device, found.driver, found.threads) == ("cpu", None, 7)
    assert found.device_name
    assert found.versions["llmbench"] == llmbench.__version__
    assert found.versions["torch"].startswith(torch.__version__.split("+")[0])
    assert set(device.PACKAGES) <= set(found.versions)
    assert "cuda" not in found.versions


def test_the_cpu_is_called_what_linux_calls_it(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Example CPU @ 2.80GHz\n")
    assert device._cpu_name(cpuinfo) == "Example CPU @ 2.80GHz"
    assert device._cpu_name(tmp_path / "missing") != ""


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_and_changes_of_a_real_checkout(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    assert device._git(checkout) == (None, None)
    _git(checkout, "init", "-q")
    assert device._git(checkout) == (None, None)  # no commit yet
    (checkout / "file").write_text("one")
    _git(checkout, "add", "file")
    _git(checkout, "commit", "-q", "-m", "one")
    head = _git(checkout, "rev-parse", "HEAD")
    assert device._git(checkout) == (head, False)
    (checkout / "file").write_text("two")
    assert device._git(checkout) == (head, True)


def test_a_copy_installed_inside_another_checkout_has_no_commit(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "commit", "-q", "--allow-empty", "-m", "theirs")
    installed = tmp_path / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    assert device._git(installed) == (None, None)


def test_without_its_library_quantization_is_refused_by_name(monkeypatch):
    found = device.importlib.util.find_spec
    monkeypatch.setattr(
        device.importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name)
    )
    with pytest.raises(HardwareError, match=r"int8 needs bitsandbytes, which is not installed; pip install .*quant"):
        device.resolve(HardwareConfig(device="cpu", dtype="auto", quantization="int8"))


def test_quantized_weights_mean_the_eager_engine(monkeypatch):
    """On a machine with a GPU and Triton, where "auto" is left to the checkpoint otherwise."""
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    plain, narrow = (HardwareConfig(device="auto", dtype="auto", quantization=kind) for kind in (None, "nf4"))
    assert device.resolve(plain).engine == "auto"
    assert device.resolve(narrow).engine == "eager"
