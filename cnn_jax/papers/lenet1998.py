"""LeCun, Bottou, Bengio and Haffner 1998: LeNet-5's error on MNIST."""

from cnn_jax.papers.paper import Paper, Published, Row

LENET1998 = Paper(
    "Gradient-Based Learning Applied to Document Recognition (LeCun, Bottou, Bengio, Haffner 1998)",
    "Proceedings of the IEEE 86(11), section III.B",
    "lenet1998",
    (Row("test, no distortions", {}, "test_accuracy", Published(0.9905)),),
    margin=0.003,
    seeds=3,
    quick={"seeds": "2", "epochs": "3"},
    note="The published number is from one run, an error of 0.95 %.",
)
