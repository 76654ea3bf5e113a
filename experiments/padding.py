"""What does the padding mode do at the borders? All seven, everything else alike.

    python launch.py padding --seeds=5        35 trials on digits, 15 s on two cores

Test accuracy (n = 5) from 97.8 % (valid) to 98.4 % (same): no effect found; the report detects 2.4 points.
"""

DEFAULTS = {"padding": "valid,same,full,reflect,symmetric,replicate,circular"}

if __name__ == "__main__":
    from cnn_jax import cli

    cli.main(__name__)
