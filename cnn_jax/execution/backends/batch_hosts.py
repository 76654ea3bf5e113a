"""Several machines that share the batches of every trial, through jax.distributed. The same command runs on each of them.

Host 0 holds the queue and the folder. It broadcasts every task, checkpoint, number of steps and stop to the workers of the
other hosts, which run in lockstep with its own: hosts that differ in a single step would deadlock. The death of a host ends
the run; rerun the same commands to resume from the checkpoint.
"""

from collections.abc import Callable

import numpy as np

from cnn_jax.execution.messages import WorkerConfig

Share = Callable[[bytes], bytes]  # broadcast from host 0 to every host


def join(config: WorkerConfig) -> Share:
    """Connect this process with those of the other hosts, before JAX initializes devices; return when all are connected."""
    import jax
    from jax.experimental import multihost_utils

    # By default the coordinator would listen on all interfaces.
    jax.distributed.initialize(config.coordinator, config.hosts, config.host, coordinator_bind_address=config.coordinator)

    def share(data: bytes) -> bytes:
        length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
        mine = np.frombuffer(data.ljust(length), np.uint8)[:length]  # ignored on other hosts than 0
        return np.asarray(multihost_utils.broadcast_one_to_all(mine)).astype(np.uint8).tobytes() if length else b""

    return share
