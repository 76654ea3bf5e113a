"""The benchmark of a machine with a GPU, in one call: see `__main__`.

__main__    flags; refuses to run without a GPU
settings    sizes, and what every process is told
parts       the parts, in order
driver      runs each part in a process of its own, within the budget; prints and writes its rows
process     that process
report      a row, the Markdown table and the JSON file

ceilings, pytorch_ceilings    what the device reaches
races                         sweeps, ours against the peers: whole processes
lanes                         steps of our training program, by lanes and variant
roofline                      time that a step takes at least, by those ceilings
"""
