"""python launch.py [EXPERIMENT] [--flags]      a sweep; the experiment is grid, or one of those below, or package.module
python launch.py describe --model=NAME      its layers: shapes, parameters, MACs, receptive fields
python launch.py report DIR [DIR ...]       rebuild a report; or merge several sweeps into --out
python launch.py compare DIR DIR            two sweeps, cell by cell
"""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command line listens: Ctrl-C during imports is no traceback
    from cnn_jax import cli

    sys.exit(cli.launch(sys.argv, __doc__ or ""))
