"""`cnn-jax` and `python -m cnn_jax`: the command line of an installed package."""

import sys


def main() -> None:
    """Run the command line with the arguments of this process, and exit."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command line listens: Ctrl-C during imports is no traceback
    from cnn_jax import cli

    sys.exit(cli.launch(["cnn-jax", *sys.argv[1:]]))


def _main_of_module() -> None:
    """As `main`, after `python -m`, which puts the current folder first: a json.py there would hide the standard library's."""
    first = [] if sys.flags.safe_path else [sys.path.pop(0)]
    from cnn_jax import cli, plugins  # noqa: F401 (all that they import comes from elsewhere)

    sys.path[:0] = first
    plugins.search_current_folder(run_as_module=True)
    main()


if __name__ == "__main__":
    _main_of_module()
