"""The command line of a clone: see `python launch.py --help`. Installed, it is `cnn-jax`."""

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

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command line handles it: no traceback for Ctrl-C during imports
    from cnn_jax import cli

    sys.exit(cli.launch(sys.argv))
