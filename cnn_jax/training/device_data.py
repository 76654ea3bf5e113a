"""A data set in the memory of one device or of several, and what several divide: each batch, or the lanes of a program."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax.data import UNIT, Dataset, Normalization
from cnn_jax.training.loop import over_lanes

Divides = Literal["batch", "lanes"]


@dataclasses.dataclass(frozen=True)
class Placement:
    """The devices of a program.

    Attributes:
      mesh: the devices if there are several; its axis is named after what they divide.
    """

    mesh: Mesh | None = None

    @classmethod
    def over(cls, devices: Sequence[jax.Device], divides: Divides) -> "Placement":
        return cls(Mesh(np.array(devices), (divides,)) if len(devices) > 1 else None)

    @property
    def divides(self) -> Divides | None:
        """What the devices divide; None: there is only one."""
        return None if self.mesh is None else self.mesh.axis_names[0]

    def whole(self, array: np.ndarray) -> jax.Array:
        """The array on every one of several devices."""
        return _spread(array, self._sharding())

    def orders(self, indices: np.ndarray) -> np.ndarray | jax.Array:
        """Indices (..., B) as the programs take them."""
        if self.mesh is None or self.divides == "lanes":
            return indices
        return _spread(indices, self._of_batch(indices.shape))

    def jit(
        self,
        function: Callable,
        lanes: int,
        in_axes: tuple[int | None, ...],
        *,
        batch: tuple[int, tuple[int, ...]],
        donate: tuple[int, ...] = (),
    ) -> jax.stages.Wrapped:
        """`jax.jit` of the function of one trial, over lanes and devices.

        Devices that divide a batch compute each a part of the gradients, and XLA adds them up. Devices that divide the lanes
        have nothing to tell each other: each runs the program of its own lanes.

        Args:
          function: of one trial.
          lanes: of all devices together, a multiple of their number where they divide the lanes.
          in_axes: 0 for the arguments with a leading axis of trials, which every result has too.
          batch: number and shape of the argument that holds indices (..., B) of images.
          donate: numbers of the arguments whose memory the results may take.
        """
        if self.mesh is None:
            return jax.jit(over_lanes(function, lanes, in_axes), donate_argnums=donate)
        if self.divides == "batch":
            number, shape = batch
            given = [self._of_batch(shape) if i == number else self._sharding() for i in range(len(in_axes))]
            return jax.jit(
                over_lanes(function, lanes, in_axes), donate_argnums=donate, in_shardings=given, out_shardings=self._sharding()
            )
        lane, everywhere = PartitionSpec("lanes"), PartitionSpec()
        specs = tuple(everywhere if axis is None else lane for axis in in_axes)
        mine = over_lanes(function, lanes // self.mesh.size, in_axes)
        mapped = jax.shard_map(mine, mesh=self.mesh, in_specs=specs, out_specs=lane, check_vma=False)
        shardings = [NamedSharding(self.mesh, spec) for spec in specs]
        return jax.jit(mapped, donate_argnums=donate, in_shardings=shardings, out_shardings=NamedSharding(self.mesh, lane))

    def _sharding(self) -> NamedSharding:
        """Whole on every device."""
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec())

    def _of_batch(self, shape: tuple[int, ...]) -> NamedSharding:
        """The last axis divided over the devices; whole on each if it cannot be divided evenly."""
        assert self.mesh is not None
        axis = None if shape[-1] % self.mesh.size else "batch"
        return NamedSharding(self.mesh, PartitionSpec(*[None] * (len(shape) - 1), axis))


def _spread(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """The array on the devices of all processes; each process has the whole of it and gives its own devices their part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


@dataclasses.dataclass(frozen=True)
class DeviceData:
    """A data set in a device's memory: training images, and images to evaluate on (validation, then test)."""

    train_images: jax.Array
    train_labels: jax.Array
    eval_images: jax.Array
    eval_labels: jax.Array
    validation: int  # how many of the eval images are validation images
    input_shape: tuple[int, ...]
    num_classes: int
    labels: np.ndarray  # of the eval images, on the host
    placement: Placement = Placement()
    normalization: Normalization = UNIT  # of the images, training and evaluation alike

    @classmethod
    def put(cls, data: Dataset, devices: Sequence[jax.Device] = (), divides: Divides = "batch") -> "DeviceData":
        """Copy the arrays to the device; to each of several, which then divide every batch, or the lanes of a program."""
        placement = Placement.over(devices, divides)

        def put(array: np.ndarray) -> jax.Array:
            if placement.mesh is None:
                return jax.device_put(np.ascontiguousarray(array), devices[0] if devices else None)
            return placement.whole(array)

        labels = np.concatenate([data.validation_labels, data.test_labels])
        return cls(
            put(data.train_images),
            put(data.train_labels),
            put(np.concatenate([data.validation_images, data.test_images])),
            put(labels),
            len(data.validation_labels),
            data.info.input_shape,
            data.info.num_classes,
            labels,
            placement,
            data.normalization,
        )

    @property
    def platform(self) -> str:
        """'cpu', 'gpu' or 'tpu'."""
        sharding = self.train_images.sharding
        if sharding is None:
            return jax.default_backend()
        device: jax.Device = next(iter(sharding.device_set))
        return device.platform
