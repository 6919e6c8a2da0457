"""One thread for the tests of this process: on models of a few thousand weights a second one only waits for the first.

Where the machine has other work the waiting is most of the time. Child processes (tests/system) choose for themselves.
"""

import torch

torch.set_num_threads(1)
