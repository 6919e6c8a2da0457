"""When are two jobs the same job? When what they build is the same.

`identity` hashes what a configuration builds, not what was typed: `model=llama` builds the same job for every `steps`,
so a sweep runs it once. The hash names the job's folder and tags its run, and by it a repeated sweep finds what is
measured already. `llmbench.job.prepare` calls it with the content hashes of what it has read; `llmbench.job` for a job
that died before that.
"""

import hashlib
import json

from llmbench.config.job import DIFFUSION_DIALS, Job, to_dict

_DIALS = ("steps", "canvas", "temperature", "ignore_stop", "server", *DIFFUSION_DIALS)


def identity(job: Job, digests: dict[str, str]) -> str:
    """Hash of what this job builds: 12 hexadecimal digits.

    Args:
        job: a configuration whose hardware is resolved (no "auto").
        digests: content hashes of workload, checkpoint, judge and encoder.

    Tracking, the sweep's options, the verdict's margins and dials that nobody read are not part of it; neither is the
    seed of a deterministic decoder.
    """
    built = to_dict(job)
    for key in ("tracking", "pair", *_DIALS, "dry_run", "reuse", "parity"):
        del built[key]
    if not job.model.decoder.stochastic:
        del built["seed"]
    canonical = json.dumps({"built": built, "digests": digests}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
