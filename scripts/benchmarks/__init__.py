"""What `scripts/benchmark.py` times, one file for each subject."""
