"""What does HTTP cost? One job's L_e2e here and through `openai_server`, by the host clock, with the same tokens.

    python -m benchmarks.http_cost model=llada steps=8 batch=4 canvas=64 hardware=cpu

The job runs here, through a server in a process of its own, and here again: a machine's level of speed shifts, and what
both local runs differ by bounds what can be said of the rest. The server runs the same engine in the same precision and
knows the batch, so that it waits for nothing. It reads steps, block_length, temperature, top_k and top_p alone.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir

from llmbench.config.build import build_job
from llmbench.config.conf_files import conf_folder
from llmbench.config.job import Job
from llmbench.job.prepare import prepare_job
from llmbench.job.run import run_job
from llmbench.record import Record

START_S = 120.0
"""For how long a server may start."""

SPEED = ("metric=speed", "metric.roofline=false", "timing.memory_trace=false", "timing.profile=false")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The Records of one job, in the order in which they were made."""

    before: Record
    served: Record
    after: Record

    @property
    def local_ms(self) -> tuple[float, float]:
        """L_e2e of a batch here, before and after, by the host clock."""
        return self.before.metrics["latency/e2e_wall_ms"], self.after.metrics["latency/e2e_wall_ms"]

    @property
    def served_ms(self) -> float:
        """The same through the server."""
        return self.served.metrics["latency/e2e_wall_ms"]

    @property
    def equal_texts(self) -> int:
        """Outputs that are the same, character for character."""
        pairs = zip(self.before.outputs, self.served.outputs, strict=True)
        return sum(one.text == other.text for one, other in pairs)


def measure(overrides: Sequence[str]) -> Cost:
    """Run one job here, through a server, and here again.

    Args:
        overrides: as for `llmbench`, with `model=llama` or `model=llada` among them.
    """
    asked = [*SPEED, *overrides]
    job = _built(asked)
    group = "diffusion_server" if job.model.decoder.family == "diffusion" else "server"
    before = run_job(prepare_job(job))
    with served(prepare_job(job).job) as url:
        own = [item for item in asked if not item.startswith("model=")]
        own += [f"model={job.model.name}_server", f"{group}.url={url}"]
        own += ["diffusion_server.engine=vllm"] if group == "diffusion_server" else []
        through = run_job(prepare_job(_built(own)))
    return Cost(before=before, served=through, after=run_job(prepare_job(job)))


def _built(overrides: Sequence[str]) -> Job:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return build_job(compose("config", overrides=list(overrides)))


@contextlib.contextmanager
def served(job: Job) -> Iterator[str]:
    """A server for a job whose hardware is resolved; its url. It ends with the block."""
    decoder, hardware = job.model.decoder, job.hardware
    options = ["--checkpoint", job.model.checkpoint, "--device", hardware.device, "--dtype", hardware.dtype]
    options += ["--batch", str(job.batch)]
    options += ["--threads", str(hardware.threads)] if hardware.threads else []
    if (block := getattr(decoder, "block_length", None)) is not None:
        options += ["--block-length", str(block)]
    with tempfile.TemporaryDirectory() as folder:
        port = Path(folder) / "port"
        command = [sys.executable, "-m", "benchmarks.openai_server", "--port", "0", "--port-file", str(port), *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + START_S
            while not port.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("http_cost: the server did not start; what it wrote stands above")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port.read_text()}/v1"
        finally:
            process.kill()
            process.wait()


def said(cost: Cost) -> str:
    """The figures, for people."""
    before, after = cost.local_ms
    local, batch = (before + after) / 2, int(cost.before.conditions["batch"])
    environment = cost.before.environment
    count = len(cost.before.outputs)
    return "\n".join(
        [
            f"{cost.before.label}, batch {batch}, canvas {cost.before.canvas}, {environment.device_name}, "
            f"{cost.before.conditions['dtype']}, {cost.before.conditions['engine']}",
            f"L_e2e here          {before:9.2f} ms before, {after:.2f} ms after",
            f"L_e2e through HTTP  {cost.served_ms:9.2f} ms",
            f"difference          {cost.served_ms - local:9.2f} ms for a batch, "
            f"{100 * (cost.served_ms / local - 1):.1f} %; the local runs differ by {abs(after - before):.2f} ms",
            f"equal texts         {cost.equal_texts} of {count}",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http_cost", description=__doc__)
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE", help="of the job: model=llada steps=8 batch=4")
    print(said(measure(parser.parse_args().overrides)))
