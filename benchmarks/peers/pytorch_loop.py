"""The sweep in PyTorch: one process of all cores, or one per core; sequential trials. Prints one line of JSON. Standalone.

    python benchmarks/peers/pytorch_loop.py mnist.npz --filters=8,16,32 --kernel_size=3,5 --padding=same,valid --seeds=3

Optimized for speed: all cores in one process, or (--per_core) a process with one thread pinned to each core, which train every
n-th trial; channels-last, the native layout of oneDNN and cuDNN; images in memory as
float32, with batches by indexing with a permutation instead of a DataLoader's Python per image; fused Adam; the loss is not
read inside an epoch; evaluation in inference mode with batches of 1,000 images. The seeds of a cell share a network and an
optimizer, which are reset in place, so compilation and capture are once per cell. Initial values have the same distributions as
in cnn_jax, so accuracies are comparable.

A step is eager, or one of
    --compile[=MODE]   network and loss by torch.compile, for full batches; an epoch's last, smaller one is eager: another
                       shape would be compiled for one step of an epoch. MODE is as there, or the backend aot_eager, which
                       traces but generates no code
    --graph            a full step, optimizer included, as a CUDA graph: one launch in place of one per kernel

--autocast computes in bfloat16 where torch.autocast does.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
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
    """He's distribution before rectifiers, Glorot's elsewhere, biases zero. All values are set in place."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if isinstance(layer, nn.Conv2d) and rectified:
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def forget(adam):
    """Reset Adam in place."""
    for state in adam.state.values():
        for value in state.values():
            value.zero_()


class Eager:
    """A training step: (rows of the images) -> nothing."""

    def __init__(self, net, adam, x_NHWC, y_N, batch_size, compile_mode=None, autocast=False):
        self.net, self.adam, self.x_NHWC, self.y_N, self.batch_size = net, adam, x_NHWC, y_N, batch_size
        self.autocast = torch.autocast(x_NHWC.device.type, torch.bfloat16, enabled=autocast)
        how = {"backend" if compile_mode == "aot_eager" else "mode": compile_mode}
        self.full = torch.compile(self.loss, dynamic=False, **how) if compile_mode else self.loss

    def loss(self, x_BHWC, y_B):
        with self.autocast:
            return F.cross_entropy(self.net(channels_last(x_BHWC)), y_B)

    def __call__(self, rows_B):
        loss = self.full if len(rows_B) == self.batch_size else self.loss
        value = loss(self.x_NHWC[rows_B], self.y_N[rows_B])
        self.adam.zero_grad(set_to_none=True)
        value.backward()
        self.adam.step()


class Graph:
    """A training step that replays a CUDA graph for full batches, captured at the first one."""

    def __init__(self, eager):
        self.eager, self.graph = eager, None

    def __call__(self, rows_B):
        if len(rows_B) < self.eager.batch_size:
            return self.eager(rows_B)
        if self.graph is None:
            self.capture(rows_B)
        self.rows_B.copy_(rows_B)
        self.graph.replay()

    def capture(self, rows_B):
        """Capture as in PyTorch's notes on CUDA graphs, after warm-up steps on another stream, which are then undone."""
        self.rows_B = rows_B.clone()
        before = {name: value.clone() for name, value in self.eager.net.state_dict().items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.eager(self.rows_B)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.eager(self.rows_B)
        self.eager.net.load_state_dict(before)
        forget(self.eager.adam)


def channels_last(x_NHWC):
    return x_NHWC.permute(0, 3, 1, 2)  # (N, C, H, W) with unchanged memory layout


def per_core(arguments):
    """Run a process per core with its share of the trials; return the sum of what they found."""
    cores = sorted(os.sched_getaffinity(0))
    command = [sys.executable, __file__, *(argument for argument in arguments if argument != "--per_core")]
    processes = [
        subprocess.Popen(
            ["taskset", "--cpu-list", str(core), *command, f"--share={i}/{len(cores)}"], stdout=subprocess.PIPE, text=True
        )
        for i, core in enumerate(cores)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit(1)
    each = [json.loads(output) for output in outputs]
    seconds = {name: sum(found[name] for found in each) for name in ("compile_seconds", "train_seconds")}
    return {"trials": [trial for found in each for trial in found["trials"]], **seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="npz file with x_train, y_train, x_test, y_test, as in keras.datasets")
    parser.add_argument("--net", choices=("chapter", "lenet5", "vgg", "resnet20"), default="chapter")
    for name in ("filters", "kernel_size", "padding"):  # comma-separated values, only for the chapter's net
        parser.add_argument(f"--{name}", default={"filters": "32", "kernel_size": "3", "padding": "valid"}[name])
    parser.add_argument("--seeds", type=int, default=1, help="trials per cell")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--validation", type=int, default=0, help="number of held-out training images, at the end")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tf32", action="store_true", help="products in TF32 on a GPU; default: in float32, exactly")
    parser.add_argument("--autocast", action="store_true", help="bfloat16, where autocast uses it")
    parser.add_argument("--per_core", action="store_true", help="a process of one thread per core")
    parser.add_argument("--share", default="0/1", metavar="I/N", help="train trial I of every N")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--compile", nargs="?", const="default", metavar="MODE", help="torch.compile, and its mode or backend")
    how.add_argument("--graph", action="store_true", help="CUDA graph; needs --device=cuda")
    args = parser.parse_args()
    if args.per_core:
        print(json.dumps(per_core(sys.argv[1:])))
        return
    share, shares = map(int, args.share.split("/"))
    on_gpu = args.device != "cpu"
    if args.graph and not on_gpu:
        parser.error("--graph: needs --device=cuda")
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32

    file = np.load(args.data)
    images = {part: torch.from_numpy(file[f"x_{part}"]).to(args.device).float().div_(255) for part in ("train", "test")}
    images = {part: x if x.ndim == 4 else x[..., None] for part, x in images.items()}
    labels = {part: torch.from_numpy(file[f"y_{part}"].astype(np.int64)).to(args.device) for part in ("train", "test")}
    held_out = len(labels["train"]) - args.validation
    x_NHWC, y_N = images["train"][:held_out], labels["train"][:held_out]
    size, channels, classes = x_NHWC.shape[1], x_NHWC.shape[3], int(file["y_train"].max()) + 1

    def wait():
        if on_gpu:
            torch.cuda.synchronize()

    def step_of(cell):
        if args.compile:
            torch.compiler.reset()  # compilations count towards a limit, above which steps are eager
        build: Any = {"chapter": chapter, "lenet5": lenet5, "vgg": vgg, "resnet20": resnet20}[args.net]
        net = build(channels, classes, *(cell if cell else (size,) if args.net == "lenet5" else ()))
        net(torch.zeros(2, channels, size, size))  # initializes the lazy layer
        net = net.to(args.device, memory_format=torch.channels_last)
        adam = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True, capturable=args.graph)
        eager = Eager(net, adam, x_NHWC, y_N, args.batch_size, args.compile, args.autocast)
        return net, adam, Graph(eager) if args.graph else eager

    @torch.inference_mode()
    def accuracy(net, x_NHWC, y_N):
        net.eval()
        pieces = zip(x_NHWC.split(1000), y_N.split(1000), strict=True)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.autocast):
            right = [(net(channels_last(x)).argmax(1) == y).sum() for x, y in pieces]
        return sum(right).item() / len(y_N) if len(y_N) else None

    trials, compile_seconds, train_seconds = [], 0.0, 0.0
    cells = [
        (int(f), int(k), p)
        for f, k, p in itertools.product(*(getattr(args, n).split(",") for n in ("filters", "kernel_size", "padding")))
    ]
    for number, cell in enumerate(cells if args.net == "chapter" else [()]):
        seeds = [seed for seed in range(args.seeds) if (number * args.seeds + seed) % shares == share]
        if seeds:
            net, adam, step = step_of(cell)
        for seed in seeds:
            torch.manual_seed(seed)
            initialize(net, rectified=args.net != "lenet5")
            forget(adam)
            for epoch in range(args.epochs):
                net.train()
                began = time.perf_counter()
                for i, rows_B in enumerate(torch.randperm(held_out, device=args.device).split(args.batch_size)):
                    step(rows_B)
                    if i == 0 and epoch == 0:
                        wait()
                        compile_seconds += time.perf_counter() - began
                        began = time.perf_counter()
                wait()
                train_seconds += time.perf_counter() - began
                validation = accuracy(net, images["train"][held_out:], labels["train"][held_out:])
            test = accuracy(net, images["test"], labels["test"])
            trials.append({"cell": cell, "seed": seed, "val_accuracy": validation, "test_accuracy": test})
    found = {"trials": trials, "compile_seconds": compile_seconds, "train_seconds": train_seconds}
    if on_gpu:
        tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        found |= {"device_memory": torch.cuda.max_memory_allocated(), "products": "TF32" if all(tf32) else "float32"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
