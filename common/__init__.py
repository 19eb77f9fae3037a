"""What every script needs: settings, files, the machine, checkpoints, pictures. Imports nothing else of the project."""

import os

# How often a thread looks whether the others have done their part before it sleeps, where PyTorch's threads are GNU
# OpenMP's, as on Linux. Left alone it looks 300,000 times, about a millisecond: a core that another program could use,
# often the one whose turn the threads wait for. Then a step takes several times as long (experiments/README.md,
# "Speed"); where nothing else runs, both are as quick. OpenMP reads it once, when torch is imported.
SPINS = "3000"
os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
