"""The benchmark on a machine with a GPU, one call: ours against PyTorch (CUDA, compiled, channels-last) and a plain Flax loop.

    python -m benchmarks.gpu            needs jax[cuda12] or newer in .venv and a CUDA build of torch in .venv-bench
    python -m benchmarks.gpu --smoke    the same with tiny settings on CPU: shows that it runs, and nothing else

Four parts: the sweep of `benchmarks.sweep` (36 trials), a sweep of 256 seeds of one cell, `benchmarks.one_program`, and
`benchmarks.speedrun`, the time to 94 % on CIFAR-10. It has only been run with --smoke so far: there are no numbers of a GPU.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import sweep
from cnn_jax.errors import UsageError
from cnn_jax.trial import DataConfig

ONE_CELL = {"filters": "32", "kernel_size": "3", "padding": "valid"}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the four parts and prints their tables; bad input ends it in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist", help="of the sweeps, as for launch.py")
    parser.add_argument("--cifar", default="cifar10", help="of the speedrun, as for launch.py")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="tiny, on CPU")
    args = parser.parse_args(argv)
    grid = ONE_CELL if args.smoke else sweep.NETS["chapter"].axes
    environment = sweep.CPU if args.smoke else {}
    options = {"pytorch": {} if args.smoke else {"device": "cuda", "compile": True}}
    config = DataConfig(args.dataset, train_examples=200 if args.smoke else None)
    try:
        for axes, seeds in ((grid, 1 if args.smoke else 3), (ONE_CELL, 2 if args.smoke else 256)):
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                entry = sweep.Entry("chapter", config, axes, seeds, ("pytorch", "flax"), environment, options)
                contenders, info = sweep.line_up(Path(folder), entry)
                runs = sweep.compare(contenders, args.rounds)
            trials = len(sweep.models(sweep.NETS["chapter"], axes, seeds))
            print(f"{trials} trials on {args.dataset}, one epoch of {info.train_examples:,} images\n")
            print(sweep.table(runs, trials * info.train_examples) + "\n", flush=True)
    except (UsageError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    few = ["--images=128", "--seeds=1"] if args.smoke else []
    for lanes in ([], ["--lanes"]):
        command = [sys.executable, "-m", "benchmarks.one_program", *few, *lanes]
        if code := subprocess.run(command, cwd=sweep.ROOT, env=sweep.inherited() | dict(environment)).returncode:
            sys.exit(code)
    tiny = ["--images=64", "--epochs=2", "--batch_size=32", "--widths=8,8,8", "--runs=1"] if args.smoke else []
    command = [sys.executable, "-m", "benchmarks.speedrun", f"--dataset={args.cifar}", *tiny]
    sys.exit(subprocess.run(command, cwd=sweep.ROOT, env=sweep.inherited() | dict(environment)).returncode)


if __name__ == "__main__":
    main()
