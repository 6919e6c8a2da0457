"""When are two jobs the same job? When what they build is the same.

`identity` hashes what a configuration builds, not what was typed: `model=llama` builds the same job for every `steps`,
so a sweep runs it once. The hash names the job's folder and tags its run, and by it a repeated sweep finds what is
measured already.
"""

import dataclasses
import hashlib
import json

from llmbench.config.job import OF_THE_SWEEP, Job, to_dict


def identity(job: Job, digests: dict[str, str]) -> str:
    """Hash of what this job builds: 12 hexadecimal digits.

    Args:
        job: a configuration whose hardware is resolved (no "auto").
        digests: content hashes of workload, checkpoint, judges and encoder.

    Tracking, the sweep's options and the verdict's margins are not part of it; neither is the seed of a deterministic
    decoder, nor a number of threads that a probe chose.
    """
    left_out = {item.name for item in dataclasses.fields(job) if OF_THE_SWEEP in item.metadata}
    left_out |= set() if job.model.decoder.stochastic else {"seed"}
    built = {key: value for key, value in to_dict(job).items() if key not in left_out}
    if job.threads_probed:
        built["hardware"]["threads"] = None
    canonical = json.dumps({"built": built, "digests": digests}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
