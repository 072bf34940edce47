"""For all tests: machines under load are slow, not wrong."""

import os

from hypothesis import settings

# Property tests have no time limit for each example.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# As the front door does, and before anything loads torch.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
