"""Benchmark of a machine with a GPU, in one call: see `__main__`.

__main__    flags; fails without a GPU
settings    sizes, and arguments of every process
parts       the parts, in order
driver      runs each part in a separate process, within the budget; prints and writes its rows
process     process of a part
report      a row, the Markdown table and the JSON file

ceilings, pytorch_ceilings    limits of the device
races                         sweeps of cnn_jax and the peers, as whole processes
lanes                         steps of cnn_jax's training program, by lanes and variant
roofline                      minimum time of a step, from the ceilings
"""
