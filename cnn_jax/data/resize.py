"""--image_size for data sets whose images are arrays of one size; folders and TFDS sets resize as they decode."""

import dataclasses

from cnn_jax.data import images
from cnn_jax.data.source import DatasetInfo, Raw, Source, check_memory


def resized(what: str, source: Source, size: int) -> Source:
    """The data set of `source` with every image stretched to (size, size) by `images.resize`.

    Raises UsageError, naming `what`, on reading if the resized images exceed the memory of this machine.
    """
    describe = source.describe

    def read() -> Raw:
        raw = source.read()
        parts = raw.train_images, raw.test_images
        check_memory(what, sum(len(part) for part in parts) * size * size * parts[0].shape[-1])
        train, test = (images.resize_all(part, size) for part in parts)
        return raw._replace(train_images=train, test_images=test)

    def describe_resized() -> DatasetInfo:
        assert describe is not None
        info = describe()
        return dataclasses.replace(info, input_shape=(size, size, info.input_shape[-1]))

    identity = [*source.identity, "image_size", size]
    return dataclasses.replace(source, identity=identity, read=read, describe=describe and describe_resized)
