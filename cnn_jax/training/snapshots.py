"""Variables of the networks at chosen epochs of the training (--snapshots). T trials, in the first lanes of a program."""

import dataclasses
from collections.abc import Mapping

import flax.traverse_util
import numpy as np

from cnn_jax.aliases import PyTree

Flat = Mapping[str, np.ndarray]  # values by path, 'params/conv1/kernel'
_PREFIX = "snapshot/"  # of the names in a checkpoint


@dataclasses.dataclass(frozen=True)
class Snapshots:
    """Variables at some epochs, as they are evaluated there, on the host.

    Attributes:
      wanted: epochs to keep; 0 is before training.
      kept: by epoch, for finished epochs; each array has a leading axis of trials.
    """

    wanted: tuple[int, ...] = ()
    kept: Mapping[int, Flat] = dataclasses.field(default_factory=dict)

    def after(self, epoch: int, variables: PyTree, trials: int) -> "Snapshots":
        """The snapshots after an epoch.

        Args:
          epoch: number of epochs done.
          variables: of the network, with a leading axis of lanes. They are copied: the next step may reuse their memory.
          trials: T.
        """
        if epoch not in self.wanted:
            return self
        flat = flax.traverse_util.flatten_dict(variables, sep="/")
        taken = {path: np.array(np.asarray(leaf)[:trials]) for path, leaf in flat.items()}
        return dataclasses.replace(self, kept={**self.kept, epoch: taken})

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by name, for a checkpoint."""
        return {f"{_PREFIX}{epoch}/{path}": leaf for epoch, flat in self.kept.items() for path, leaf in flat.items()}

    def restored(self, arrays: Flat, variables: PyTree, trials: int, epochs: int) -> "Snapshots":
        """The wanted snapshots from a checkpoint that was written after `epochs` whole epochs.

        Args:
          arrays: of the checkpoint.
          variables: of the network, with a leading axis of lanes: they give paths, shapes and types.
          trials: T.
          epochs: whole epochs done.

        Raises:
          ValueError: a wanted epoch has passed without a snapshot, or a snapshot has another shape.
        """
        flat = flax.traverse_util.flatten_dict(variables, sep="/")
        found = {}
        for epoch in self.wanted:
            if epoch > epochs:
                continue
            try:
                found[epoch] = {path: arrays[f"{_PREFIX}{epoch}/{path}"] for path in flat}
            except KeyError:
                raise ValueError(f"checkpoint lacks the snapshot of epoch {epoch}") from None
            wanted = {path: ((trials, *leaf.shape[1:]), leaf.dtype) for path, leaf in flat.items()}
            if {path: (leaf.shape, leaf.dtype) for path, leaf in found[epoch].items()} != wanted:
                raise ValueError("snapshots of another shape")
        return dataclasses.replace(self, kept=found)

    def of(self, trial: int, last: int) -> dict[str, np.ndarray]:
        """Return the snapshots of one trial up to epoch `last`, named as in `records.arrays.Kept`: 'EPOCH/PATH'."""
        return {
            f"{epoch}/{path}": leaf[trial]
            for epoch, flat in sorted(self.kept.items())
            for path, leaf in flat.items()
            if epoch <= last
        }
