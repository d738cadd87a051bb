"""Measurements: one harness under pytest-benchmark, and a script behind each published number.

| command | measures |
|---|---|
| ``pytest benchmarks --backend numpy`` (or ``cupy``) | convolution, im2col, layers, models, PyTorch |
| ``python -m benchmarks.report FILE...`` | tables of what was kept |
| ``python -m benchmarks.roofline FILE --plot PNG`` | rates of convolutions under the machine's roofs |
| ``python -m benchmarks.against_torch`` | training steps, inference and convolutions beside PyTorch |
| ``python -m benchmarks.outside_kernels`` | the share of a training step outside compiled calls |
| ``python -m benchmarks.compare_commits REV`` | training steps and convolutions of two commits |
| ``python -m benchmarks.peak_memory`` | memory of evaluation and of a training step |
| ``python -m benchmarks.published``, ``ensemble``, ``transfer``, ``convergence`` | accuracies |
| ``python -m benchmarks.backends_agree``, ``tiny_in_torch`` | the same losses elsewhere |
"""
