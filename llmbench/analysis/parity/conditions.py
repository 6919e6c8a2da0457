"""Under which conditions Records were made, as a value."""

from collections.abc import Sequence

from llmbench.analysis.parity.grouping import FULL_NUCLEUS, TEMPERATURE, nucleus, seed_of
from llmbench.analysis.parity.sums import documents_of
from llmbench.analysis.parity.verdict import Conditions
from llmbench.record import Record, from_server


def conditions_of(records: Sequence[Record]) -> Conditions:
    """What these Records share, with every temperature and nucleus that one of them has.

    Args:
        records: of one set, the baseline's first; () gives conditions without a device.
    """
    if not records:
        return Conditions(device_name="")
    first = records[0]
    said = first.conditions
    nuclei = tuple(dict.fromkeys(map(nucleus, records)))
    temperatures = [r.conditions[TEMPERATURE] for r in records if TEMPERATURE in r.conditions]
    prompts = [output.prompt_id for output in first.outputs]
    served = from_server(first)
    return Conditions(
        device_name=said.get("device_name", ""),
        device="" if served else said.get("device", ""),
        dtype="" if served else said.get("dtype", ""),
        quantization=said.get("quantization", "none"),
        batch=said.get("batch", ""),
        canvas=said.get("canvas", ""),
        temperatures=tuple(dict.fromkeys(temperatures)),
        nuclei=() if nuclei == (FULL_NUCLEUS,) else nuclei,
        chat="decoding.chat" in said,
        prompts=len(prompts),
        documents=documents_of([first], prompts).count if prompts else 0,
        seeds=max(len({seed_of(record) for record in records} - {""}), 1),
        judge=first.signatures.get("judge", "").partition("@")[0],
        second_judge=first.signatures.get("second_judge", "").partition("@")[0],
    )
