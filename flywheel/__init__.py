"""flywheel: a language model learns from its own verified experience.

The core package. It names no environment, verifier or recipe: those are found through :mod:`flywheel.registry`.
Run ``python -m flywheel.train quickstart`` to see the whole loop.
"""

import os

# Trainer and engine share the cores of a small machine. OpenMP threads that spin while they wait for one another then stop
# the very thread they wait for: six times slower with one busy neighbour on two cores. Read when torch is first loaded, and
# whatever loads torch here has loaded this package first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
