"""What `benchmarks.against_torch` times: the contests, and what beside time is told of a training step."""
