"""The four hypotheses, each with a verdict and its numbers."""
