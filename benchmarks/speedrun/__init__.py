"""airbench94 (Jordan 2024, arXiv 2404.00498) in JAX: `python -m benchmarks.speedrun`.

recipe      constants, converted; optimizer; Lookahead
network     the network and its whitening kernel
training    augmentation, the training program, evaluation over six views
"""
