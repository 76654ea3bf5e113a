"""airbench94's recipe in PyTorch, after its paper and program; the peer of `benchmarks.speedrun`. Standalone.

    python benchmarks/peers/airbench_loop.py cifar10.npz --seeds=0,1,2 --epochs=9.9

Source: K. Jordan, arXiv 2404.00498, and `legacy/airbench94.py` of github.com/KellerJordan/cifar10-airbench. As in the source,
losses of a batch are summed; on a GPU everything except normalization is in half precision, which has not been run yet; on CPU
everything is float32. Differences: images are normalized by the mean and deviation of these training images; a batch is one
indexing operation, including shift and flip. Prints one line of JSON. A run is timed from images on the device to predictions
for the test images.
"""

import argparse
import copy
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

MOMENTUM, SHIFT, WHITENED, EVALUATED = 0.85, 2, 5000, 2000


class Convolution(nn.Conv2d):
    """3x3 convolution without bias; its first filters are initialized to the identity."""

    def __init__(self, before, filters):
        super().__init__(before, filters, 3, padding=1, bias=False)
        with torch.no_grad():
            nn.init.dirac_(self.weight[:before])


class Norm(nn.BatchNorm2d):
    """Batch normalization with biases only; running statistics have a momentum of 0.6."""

    def __init__(self, filters):
        super().__init__(filters, eps=1e-12, momentum=0.4)
        self.weight.requires_grad_(False)


class Net(nn.Module):
    """Whitening, three groups of two convolutions, dense layer: (N, C, H, W) -> (N, K)."""

    def __init__(self, channels, classes, widths):
        super().__init__()
        filters = 8 * channels
        self.whitening = nn.Conv2d(channels, filters, 2)
        self.whitening.weight.requires_grad_(False)
        nn.init.zeros_(self.whitening.bias)
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for width in widths:
            self.convs += [Convolution(filters, width), Convolution(width, width)]
            self.norms += [Norm(width), Norm(width)]
            filters = width
        self.head = nn.Linear(filters, classes, bias=False)

    def forward(self, x):
        x = F.gelu(self.whitening(x))
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = conv(x)
            x = F.gelu(norm(F.max_pool2d(x, 2) if i % 2 == 0 else x))
        return self.head(F.max_pool2d(x, x.shape[2:]).flatten(1)) / 9


def whitening(x_NCHW):
    """(8 C, C, 2, 2): principal axes of patches about zero, largest first, divided by the root of their power; negatives."""
    patches = F.unfold(x_NCHW.float(), 2).transpose(1, 2).flatten(0, 1)
    values, axes = torch.linalg.eigh(patches.T @ patches / len(patches))
    kernels = (axes / torch.sqrt(values + 5e-4)).T.flip(0).unflatten(1, (x_NCHW.shape[1], 2, 2))
    return torch.cat([kernels, -kernels])


class Trainer:
    """Optimizer: SGD on the summed loss of a batch, with schedule, Lookahead, and freezing of the whitening bias."""

    def __init__(self, net, images, batch_size, epochs):
        self.net, self.done, self.steps_per_epoch = net, 0, images // batch_size
        self.steps = math.ceil(self.steps_per_epoch * epochs)
        per_gradient = 1024 * (1 + 1 / (1 - MOMENTUM))
        rate, decay = 11.5 / per_gradient, 0.0153 * batch_size / per_gradient
        biases, others = [norm.bias for norm in net.norms], [net.whitening.bias, net.head.weight]
        others += [conv.weight for conv in net.convs]
        groups = [(biases, 64 * rate), (others, rate)]
        settings = [{"params": params, "lr": lr, "weight_decay": decay / lr} for params, lr in groups]
        self.sgd = torch.optim.SGD(settings, lr=rate, momentum=MOMENTUM, nesterov=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.sgd, self.factor)
        self.slow = copy.deepcopy(net.state_dict())

    def factor(self, step):
        """Return the learning rate as a share of the peak."""
        top = int(0.23 * self.steps)
        if step < top:
            return 0.2 + 0.8 * step / top
        return 1 - 0.93 * (step - top) / (self.steps - top)

    def step(self, x_NCHW, y_N):
        self.net.whitening.bias.requires_grad_(self.done < 3 * self.steps_per_epoch)
        self.net.train()
        loss = F.cross_entropy(self.net(x_NCHW), y_N, label_smoothing=0.2, reduction="sum")
        self.sgd.zero_grad(set_to_none=True)
        loss.backward()
        self.sgd.step()
        self.schedule.step()
        self.done += 1
        if self.done % 5 == 0:
            self.meet(0.95**5 * (self.done / self.steps) ** 3)
        if self.done == self.steps:
            self.meet(1.0)

    @torch.no_grad()
    def meet(self, decay):
        """Update the slow weights (parameters and statistics) with weight `decay`, and copy them to the fast ones."""
        for name, fast in self.net.state_dict().items():
            if fast.is_floating_point():
                fast.copy_(self.slow[name].lerp_(fast, 1 - decay))


def train(x_NHWC, y_N, seed, args, dtype):
    """Train a network."""
    torch.manual_seed(seed)
    device, (count, height, width, channels) = x_NHWC.device, x_NHWC.shape
    net = Net(channels, args.classes, args.widths).to(device, dtype, memory_format=torch.channels_last)
    net.norms.float()
    net.whitening.weight.data.copy_(whitening(x_NHWC[:WHITENED].permute(0, 3, 1, 2)))
    trainer = Trainer(net, count, args.batch_size, args.epochs)
    mirrored = torch.rand(count, device=device) < 0.5
    padded_NHWC = pad(x_NHWC, SHIFT)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    while trainer.done < trainer.steps:
        odd = trainer.done // trainer.steps_per_epoch % 2 == 1
        order = torch.randperm(count, device=device)[: trainer.steps_per_epoch * args.batch_size]
        for chosen in order.split(args.batch_size)[: trainer.steps - trainer.done]:
            down, right = torch.randint(0, 2 * SHIFT + 1, (2, len(chosen), 1), device=device)
            across = torch.where((mirrored[chosen] ^ odd)[:, None], columns.flip(0), columns) + right
            x = padded_NHWC[chosen[:, None, None], (rows + down)[:, :, None], across[:, None, :]]
            trainer.step(x.permute(0, 3, 1, 2), y_N[chosen])
    return net


def pad(x_NHWC, pixels):
    """Pad images by reflection."""
    return F.pad(x_NHWC.permute(0, 3, 1, 2), (pixels,) * 4, "reflect").permute(0, 2, 3, 1).contiguous()


@torch.inference_mode()
def accuracies(net, x_NHWC, y_N):
    """Compute accuracies with six views (original, shifted diagonally by a pixel both ways, each also flipped), and one."""
    net.eval()
    by_views, by_one = 0, 0
    for x, y in zip(x_NHWC.split(EVALUATED), y_N.split(EVALUATED), strict=True):
        moved, total = pad(x, 1), 0
        for weight, view in ((0.5, x), (0.25, moved[:, :-2, :-2]), (0.25, moved[:, 2:, 2:])):
            logits = [net(v.permute(0, 3, 1, 2)) for v in (view, view.flip(2))]
            total = total + weight / 2 * sum(logits)
            if view is x:
                by_one += (logits[0].argmax(1) == y).sum().item()
        by_views += (total.argmax(1) == y).sum().item()
    return by_views / len(y_N), by_one / len(y_N)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="npz file with x_train, y_train, x_test, y_test, as in keras.datasets")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0])
    parser.add_argument("--epochs", type=float, default=9.9)
    parser.add_argument("--batch_size", type=int, default=1024)
    parser.add_argument("--widths", type=lambda text: [int(width) for width in text.split(",")], default=[64, 256, 256])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = True

    file = np.load(args.data)
    args.classes = int(file["y_train"].max()) + 1
    dtype = torch.float32 if args.device == "cpu" else torch.half
    mean, deviation = file["x_train"].mean((0, 1, 2)), file["x_train"].std((0, 1, 2))
    images = {
        part: torch.from_numpy(((file[f"x_{part}"] - mean) / deviation).astype(np.float32)).to(args.device, dtype)
        for part in ("train", "test")
    }
    labels = {part: torch.from_numpy(file[f"y_{part}"].astype(np.int64)).to(args.device) for part in ("train", "test")}
    runs = []
    for seed in args.seeds:
        began = time.perf_counter()
        net = train(images["train"], labels["train"], seed, args, dtype)
        by_views, by_one = accuracies(net, images["test"], labels["test"])
        seconds = time.perf_counter() - began
        runs.append({"seed": seed, "by_views": by_views, "by_one": by_one, "seconds": seconds})
    name = args.device if args.device == "cpu" else torch.cuda.get_device_name(args.device)
    print(json.dumps({"runs": runs, "device": name}))


if __name__ == "__main__":
    main()
