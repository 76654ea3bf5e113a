"""launch.py export: a trained network as a file for another program."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags as absl_flags

from cnn_jax.cli import flags
from cnn_jax.console import Console
from cnn_jax.errors import UsageError
from cnn_jax.export import formats
from cnn_jax.records import store

_USAGE = """python launch.py export DIR [TRIAL] --format=FORMAT [--out=FILE]

python launch.py export FILE.safetensors --format=FORMAT [--out=FILE]

Write a trained network for another program. The file takes images as they are
stored, 0 to 255, normalizes them itself and gives logits. An existing file is not
overwritten. See docs/export.md.

A TRIAL is an id, a prefix of one, or best, the default.
"""


def export(words: Sequence[str]) -> int:
    """Write a trained network for ONNX, PyTorch, Keras, JAX, or as safetensors."""
    values = absl_flags.FlagValues()
    texts = {
        "format": f"{', '.join(formats.SUFFIXES)}; default by the suffix of --out",
        "out": "the file; default DIR/export/TRIAL and the suffix of the format; torch writes FILE.py and its weights, FILE.pt",
    }
    for name, text in texts.items():
        absl_flags.DEFINE_string(name, None, text, flag_values=values)
    named = flags.parse(values, ["export", *words], _USAGE)
    if not 1 <= len(named) <= 2:
        raise UsageError(f"export: takes the folder of a sweep and a trial, not {len(named)} words")
    format = formats.format_of(values.format, values.out)
    if values.out is not None:
        formats.paths(store.folder(values.out), format)

    from cnn_jax.analysis.trained import open_trial

    network = open_trial(*named)
    assert network.trial is not None
    source = Path(named[0])
    folder = source.parent if source.is_file() else store.folder(named[0]) / "export"
    out = folder / formats.file_name(network.trial.id, format) if values.out is None else store.folder(values.out)
    store.check(out.parent)
    with store.reporting(out.parent):
        written = network.export(out, format)
    console = Console()
    console.print(f"trial {network.trial.id}:", soft_wrap=True)
    for path in reversed(written.paths):
        console.print(f"{path} ({path.stat().st_size / 1e3:,.0f} kB)", soft_wrap=True)
    if written.difference is not None:
        console.print(f"run and compared: logits differ from JAX's by {written.difference:.0e} at most")
    elif format == "onnx":
        console.print("not run, for lack of onnxruntime: pip install onnxruntime", style="yellow")
    return 0
