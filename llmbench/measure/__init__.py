"""How long did it take, what did it use, and what could the device do at most? This room knows no model.

`timing` owns the clocks; `passes` the order in which a job is warmed up, timed and instrumented; `probes` and `nvml`
read memory, energy and clocks; `device` picks the device and says where a Record was made; `ceilings` measures what the
device can do at most.
"""
