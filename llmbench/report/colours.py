"""The colours of every figure."""

BASELINE = "#1f5fa8"  # the autoregressive side
CANDIDATE = "#d1622b"  # diffusion
REFERENCE = "#7a7a7a"  # what both are read against
