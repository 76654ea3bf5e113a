"""Keras runs on PyTorch here, which has to be said before it is imported."""

import os

os.environ["KERAS_BACKEND"] = "torch"
