"""What every script needs: settings, files, the machine, checkpoints, pictures. Imports nothing else of the project."""

import os

# How often a thread looks whether the others have done their part before it sleeps, where PyTorch's threads are GNU
# OpenMP's, as on Linux. Left alone it looks 300,000 times, and keeps a core from another program, or from the very
# thread that it waits for: beside other programs a step then takes much longer (experiments/README.md, "Speed"). Where
# nothing else runs, little changes. OpenMP reads this once, when torch is imported.
SPINS = "3000"
os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
