"""The sweep in Keras 3 on TensorFlow: build, compile, fit, evaluate. Prints one line of JSON. Standalone.

    python benchmarks/peers/keras_loop.py mnist.npz --filters=8,16,32 --kernel_size=3,5 --padding=same,valid --seeds=3

Optimized for speed: images in memory as float32, a tf.data pipeline that shuffles indices and gathers whole batches; STEPS
steps per execution, to reduce Python overhead; no XLA: for one epoch of MNIST with 16 filters it took three times the processor
time on CPU, including compilation (see --xla). Initial values have the same distributions as in cnn_jax, so accuracies are
comparable.
"""

import argparse
import itertools
import json
import os
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

STEPS = 16


class FirstSteps(keras.callbacks.Callback):
    """Records the end of the first execution, when tracing and compilation are done."""

    ended = 0.0

    def on_train_batch_end(self, batch, logs=None):
        self.ended = self.ended or time.perf_counter()


def build(shape, classes, filters, kernel_size, padding, xla):
    """Build and compile the chapter's network."""
    conv = keras.layers.Conv2D(filters, kernel_size, padding=padding, activation="relu", kernel_initializer="he_uniform")
    pool = keras.layers.MaxPooling2D(2)
    model = keras.Sequential([keras.Input(shape), conv, pool, keras.layers.Flatten(), keras.layers.Dense(classes)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"], steps_per_execution=STEPS, jit_compile=xla)
    return model


def batches(x_NHWC, y_N, size, seed=None):
    """Create a pipeline over batches; with a seed, reshuffled in every epoch."""
    rows = tf.data.Dataset.range(len(y_N))
    if seed is not None:
        rows = rows.shuffle(len(y_N), seed=seed, reshuffle_each_iteration=True)
    gather = rows.batch(size).map(lambda i: (tf.gather(x_NHWC, i), tf.gather(y_N, i)), num_parallel_calls=tf.data.AUTOTUNE)
    return gather.prefetch(tf.data.AUTOTUNE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="npz file with x_train, y_train, x_test, y_test, as in keras.datasets")
    parser.add_argument("--filters", default="32", help="comma-separated values, as the next two")
    parser.add_argument("--kernel_size", default="3")
    parser.add_argument("--padding", default="valid")
    parser.add_argument("--seeds", type=int, default=1, help="trials per cell")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--validation", type=int, default=0, help="number of held-out training images, at the end")
    parser.add_argument("--xla", action="store_true", help="compile with XLA")
    args = parser.parse_args()

    file = np.load(args.data)
    images = {part: tf.constant(file[f"x_{part}"].astype(np.float32) / 255) for part in ("train", "test")}
    images = {part: x if x.ndim == 4 else x[..., None] for part, x in images.items()}
    labels = {part: tf.constant(file[f"y_{part}"].astype(np.int32)) for part in ("train", "test")}
    held_out = len(labels["train"]) - args.validation
    validation = batches(images["train"][held_out:], labels["train"][held_out:], 1000) if args.validation else None
    test = batches(images["test"], labels["test"], 1000)
    shape, classes = images["train"].shape[1:], int(file["y_train"].max()) + 1

    trials, compile_seconds, train_seconds = [], 0.0, 0.0
    axes = args.filters.split(","), args.kernel_size.split(","), args.padding.split(",")
    for (f, k, p), seed in itertools.product(itertools.product(*axes), range(args.seeds)):
        keras.backend.clear_session()
        keras.utils.set_random_seed(seed)
        model = build(shape, classes, int(f), int(k), p, args.xla)
        training = batches(images["train"][:held_out], labels["train"][:held_out], args.batch_size, seed)
        first, began = FirstSteps(), time.perf_counter()
        model.fit(training, epochs=args.epochs, callbacks=[first], shuffle=False, verbose=0)
        compile_seconds += first.ended - began
        train_seconds += time.perf_counter() - first.ended
        held = model.evaluate(validation, verbose=0)[1] if validation else None
        trials.append(
            {"cell": (f, k, p), "seed": seed, "val_accuracy": held, "test_accuracy": model.evaluate(test, verbose=0)[1]}
        )
    print(json.dumps({"trials": trials, "compile_seconds": compile_seconds, "train_seconds": train_seconds}))


if __name__ == "__main__":
    main()
