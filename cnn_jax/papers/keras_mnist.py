"""Keras's example "Simple MNIST convnet": accuracies of the published run."""

from cnn_jax.papers.paper import Paper, Published, Row

KERAS_MNIST = Paper(
    "Simple MNIST convnet (Chollet)",
    "keras.io/examples/vision/mnist_convnet",
    "keras_mnist",
    (
        Row("validation, epoch 1", {}, "val_accuracy@1", Published(0.978)),
        Row("validation, epoch 5", {}, "val_accuracy@5", Published(0.989)),
        Row("test, epoch 15", {"epochs": 15}, "test_accuracy", Published(0.992)),
    ),
    margin=0.003,
    seeds=3,
    quick={"seeds": "2", "epochs": "5"},
    note="The published numbers are from one run.",
)
