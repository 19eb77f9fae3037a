"""What backs the numbers: benchmark, comparisons, study, and the tables made of them. See experiments/README.md."""
