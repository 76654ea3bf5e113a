"""python launch.py [EXPERIMENT] [--flags]   a sweep; the experiment is grid, or
                                         one of those below, or package.module
python launch.py describe --model=NAME   its layers: shapes, parameters, MACs,
                                         receptive fields
python launch.py report DIR [DIR ...]    rebuild a report; or merge several
                                         sweeps into --out
python launch.py compare DIR DIR         two sweeps, cell by cell
python launch.py inspect DIR [TRIAL ...] look inside trained networks
python launch.py measure DIR             what they learned in numbers, over seeds
--help after any of them                 what it does, and its flags
"""

import os
import sys

if __name__ == "__main__":
    # Python searches the folder of this file first, where a json.py would hide the standard library's. It goes behind the
    # standard library, and before installed packages: this copy of cnn_jax is the one to run.
    if not sys.flags.safe_path:
        sys.path.pop(0)
    installed = next((i for i, folder in enumerate(sys.path) if folder.endswith("-packages")), len(sys.path))
    sys.path.insert(installed, os.path.dirname(os.path.realpath(__file__)))

    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command line listens: Ctrl-C during imports is no traceback
    from cnn_jax import cli

    sys.exit(cli.launch(sys.argv, __doc__ or ""))
