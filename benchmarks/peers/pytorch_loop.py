"""The sweep as a PyTorch user writes it: one process, one trial after the other. Prints one line of JSON. Standalone.

    python benchmarks/peers/pytorch_loop.py mnist.npz --filters=8,16,32 --kernel_size=3,5 --padding=same,valid --seeds=3

Chosen for speed: every core in one process; channels-last, oneDNN's and cuDNN's own layout; the images once in memory as
float32, a batch being one indexing by a permutation instead of a DataLoader's Python per image; fused
Adam; the loss is never read inside an epoch; evaluation in inference mode, 1,000 images at once. Eager unless --compile is
given. Initial values have
the distributions of ours, so accuracies can be compared.
"""

import argparse
import itertools
import json
import os
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def chapter(channels, classes, filters, kernel_size, padding):
    conv = nn.Conv2d(channels, filters, kernel_size, padding=padding)
    return nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(classes))


def lenet5(channels, classes, size):
    first = (nn.Conv2d(channels, 6, 5, padding=max(32 - size, 0) // 2), nn.Tanh(), nn.AvgPool2d(2))
    second = (nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten())
    return nn.Sequential(*first, *second, nn.LazyLinear(120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, classes))


def vgg(channels, classes):
    layers = []
    for f in (32, 64, 128):
        first, second = nn.Conv2d(channels, f, 3, padding=1), nn.Conv2d(f, f, 3, padding=1)
        layers += [first, nn.ReLU(), second, nn.ReLU(), nn.MaxPool2d(2)]
        channels = f
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(classes))


class Block(nn.Module):
    """He et al. 2016: two 3x3 convolutions and the parameter-free shortcut "A"."""

    def __init__(self, before, filters, stride):
        super().__init__()
        self.stride, self.new = stride, filters - before
        self.conv1 = nn.Conv2d(before, filters, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(filters), nn.BatchNorm2d(filters)

    def forward(self, x):
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new)) if self.new else x
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + shortcut)


def resnet20(channels, classes):
    layers = [nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for before, f in ((16, 16), (16, 32), (32, 64)):
        layers += [Block(before, f, f // before), Block(f, f, 1), Block(f, f, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def initialize(net, rectified):
    """He's distribution before rectifiers, Glorot's elsewhere, biases zero."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if isinstance(layer, nn.Conv2d) and rectified:
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="npz file with x_train, y_train, x_test, y_test, as in keras.datasets")
    parser.add_argument("--net", choices=("chapter", "lenet5", "vgg", "resnet20"), default="chapter")
    for name in ("filters", "kernel_size", "padding"):  # a comma makes a sweep, of the chapter's net alone
        parser.add_argument(f"--{name}", default={"filters": "32", "kernel_size": "3", "padding": "valid"}[name])
    parser.add_argument("--seeds", type=int, default=1, help="trials per cell")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--validation", type=int, default=0, help="the last so many training images are held out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = True

    file = np.load(args.data)
    images = {part: torch.from_numpy(file[f"x_{part}"]).to(args.device).float().div_(255) for part in ("train", "test")}
    images = {part: x if x.ndim == 4 else x[..., None] for part, x in images.items()}
    labels = {part: torch.from_numpy(file[f"y_{part}"].astype(np.int64)).to(args.device) for part in ("train", "test")}
    held_out = len(labels["train"]) - args.validation
    x_NHWC, y_N = images["train"][:held_out], labels["train"][:held_out]
    size, channels, classes = x_NHWC.shape[1], x_NHWC.shape[3], int(file["y_train"].max()) + 1

    def wait():
        if args.device != "cpu":
            torch.cuda.synchronize()

    def batch(x_NHWC):
        return x_NHWC.permute(0, 3, 1, 2)  # (N, C, H, W) that lies in memory as it was: channels last

    @torch.inference_mode()
    def accuracy(net, x_NHWC, y_N):
        net.eval()
        right = [(net(batch(x)).argmax(1) == y).sum() for x, y in zip(x_NHWC.split(1000), y_N.split(1000), strict=True)]
        return sum(right).item() / len(y_N) if len(y_N) else None

    trials, compile_seconds, train_seconds = [], 0.0, 0.0
    cells = [
        (int(f), int(k), p)
        for f, k, p in itertools.product(*(getattr(args, n).split(",") for n in ("filters", "kernel_size", "padding")))
    ]
    for cell, seed in itertools.product(cells if args.net == "chapter" else [()], range(args.seeds)):
        torch.manual_seed(seed)
        build: Any = {"chapter": chapter, "lenet5": lenet5, "vgg": vgg, "resnet20": resnet20}[args.net]
        net = build(channels, classes, *(cell if cell else (size,) if args.net == "lenet5" else ()))
        net(torch.zeros(2, channels, size, size))  # tells the lazy layer how many features there are
        initialize(net, rectified=args.net != "lenet5")
        net = net.to(args.device, memory_format=torch.channels_last)
        step = torch.compile(net) if args.compile else net
        adam = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
        for epoch in range(args.epochs):
            net.train()
            began = time.perf_counter()
            for i, rows in enumerate(torch.randperm(held_out, device=args.device).split(args.batch_size)):
                loss = F.cross_entropy(step(batch(x_NHWC[rows])), y_N[rows])
                adam.zero_grad(set_to_none=True)
                loss.backward()
                adam.step()
                if i == 0 and epoch == 0:
                    wait()
                    compile_seconds += time.perf_counter() - began
                    began = time.perf_counter()
            wait()
            train_seconds += time.perf_counter() - began
            validation = accuracy(net, images["train"][held_out:], labels["train"][held_out:])
        test = accuracy(net, images["test"], labels["test"])
        trials.append({"cell": cell, "seed": seed, "val_accuracy": validation, "test_accuracy": test})
    print(json.dumps({"trials": trials, "compile_seconds": compile_seconds, "train_seconds": train_seconds}))


if __name__ == "__main__":
    main()
