"""At how many diffusion steps does the candidate match the baseline, and what may be claimed?"""
