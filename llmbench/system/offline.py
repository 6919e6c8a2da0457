"""Why can the Hugging Face hub not be reached? Because somebody said so, or because it cannot.

`huggingface_hub` stays off the network where HF_HUB_OFFLINE (or, where that is empty, TRANSFORMERS_OFFLINE) is 1, on,
yes or true in any case; every other value, 0, false and off among them, means nothing. This is the one place that reads
it, in that library's own words, and only to say what happened.
"""

import os


def offline(*more: str) -> str | None:
    """The variable that keeps libraries off the network; None where none does.

    Args:
        more: variables of other libraries that mean the same to them.
    """
    from huggingface_hub.constants import ENV_VARS_TRUE_VALUES

    hub = "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
    return next((key for key in (hub, *more) if os.environ.get(key, "").upper() in ENV_VARS_TRUE_VALUES), None)


def why_unreachable(reason: str, *more: str) -> str:
    """The end of a refusal: what to unset, or what the library met.

    Args:
        reason: of the error, in a line.
        more: as in `offline`.
    """
    key = offline(*more)
    return f"{key} is set; unset it once" if key else f"the hub cannot be reached ({reason})"
