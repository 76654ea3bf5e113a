"""Several machines that share the batches of every trial, through jax.distributed. The same command is given on each of them.

Host 0 leads: it has the queue and the folder. The others have neither; their workers do what its worker does, in step: which
task, from which checkpoint, how many steps, when to stop. All of it is told by broadcast, for hosts that differ in a single
step would wait for each other for ever. A host that dies takes the run with it; the same commands go on from the checkpoint.
"""

from collections.abc import Callable

import numpy as np

from cnn_jax.execution.messages import WorkerConfig

Share = Callable[[bytes], bytes]  # what host 0 gives, on every host


def join(config: WorkerConfig) -> Share:
    """Connects this process with those of the other hosts, before JAX looks for devices; returns when all are there."""
    import jax
    from jax.experimental import multihost_utils

    # Not on all interfaces, as would be the default: on the one that the user named.
    jax.distributed.initialize(config.coordinator, config.hosts, config.host, coordinator_bind_address=config.coordinator)

    def share(data: bytes) -> bytes:
        length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
        mine = np.frombuffer(data.ljust(length), np.uint8)[:length]  # only what host 0 has here counts
        return np.asarray(multihost_utils.broadcast_one_to_all(mine)).astype(np.uint8).tobytes() if length else b""

    return share
