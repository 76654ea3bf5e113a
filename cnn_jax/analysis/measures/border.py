"""Error rate by distance of the content from the border."""

from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.analysis.shifts import blank, error_by_distance
from cnn_jax.data import Dataset

IMAGES = 100  # test images at most


def border(network: TrainedNetwork, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Measure the error rate with the content of the same images moved to 0, 1, ... pixels from the border.

    Definition and source: `shifts.error_by_distance`.

    Returns:
      'border_error' for 'border 0', 'border 1', ...; empty where the content fills the images.
    """
    if len(network.input_shape) != 3:
        return {}
    images, labels = dataset.test_images[:IMAGES], dataset.test_labels[:IMAGES]
    found = error_by_distance(network, images, labels, blank(dataset))
    return {"border_error": {f"border {distance}": error for distance, error in found.items()}}
