"""What backs the numbers: benchmark, comparisons, study, and the tables made of them. See experiments/README.md."""

import common as common  # before any of its modules imports torch: how threads wait
