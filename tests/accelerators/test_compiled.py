"""Training programs compiled for an H100 and a TPU v5e, neither of which is here. `make accelerators` runs this.

Kernels and bytes of a step must not exceed `golden.json`; `make accelerators-golden` records them anew.
"""

import re

import golden
import jax
import programs
import pytest
from hlo import Module

from cnn_jax.training.program import LOOP_UNIT

pytestmark = pytest.mark.accelerators


@pytest.mark.parametrize("cell", golden.CELLS, ids=lambda cell: golden.name(*cell))
def test_training_program(cell):
    net, _, precision, target = cell
    compiled = programs.compiled(*cell)
    text = compiled.as_text()
    module = Module(text)
    layout = re.search(r"entry_computation_layout=.*", text)[0]

    if target == "h100":
        assert module.loop.trip_count == LOOP_UNIT["gpu"]  # no condition is copied to the host
    assert "f64[" not in text
    targets = set(re.findall(r'custom_call_target="([^"]+)"', text))
    assert not [found for found in targets if "callback" in found or "cnn_jax" in found]
    assert not re.search(r"\b(infeed|outfeed|send|recv)\(", text)

    shape, examples, _ = programs.NETS[net]
    sizes = ",".join(map(str, (examples, *shape)))
    assert f"u8[{sizes}]" in layout
    assert not re.search(rf"\b(f32|bf16)\[{sizes}\]", text)  # converted after they are gathered

    donated = sum(leaf.donated for leaf in jax.tree.leaves(compiled.args_info))
    assert len(re.findall(r"(?:may|must)-alias", text.splitlines()[0])) == donated > 0

    assert "bf16" not in layout  # parameters, statistics of batches and optimizer state
    step = module.step()
    if precision == "bfloat16":
        assert set(step.convolutions) | set(step.products) == {"bf16"}
        if target == "h100":  # libtpu writes a sum that is rounded afterwards as one of bfloat16, whatever it adds up in
            assert not re.search(r"= bf16\[[\d,]*\]\S* reduce\(", text)  # sums of statistics and biases
    recorded = golden.recorded().get(golden.name(*cell))
    assert recorded, "not in golden.json: run make accelerators-golden"
    assert step.kernels <= recorded["kernels"]
    assert step.megabytes <= recorded["megabytes"]
    assert step.cycles <= recorded["cycles"]
    assert step.convolutions == recorded["convolutions"]
    assert step.products == recorded["products"]
    assert step.scatters == recorded["scatters"]
