"""Confusions of classes over all runs, and the stored test images that are misclassified most often."""

import collections
from collections.abc import Sequence

import numpy as np

from cnn_jax import stats
from cnn_jax.records import confusion
from cnn_jax.report import matrix, pictures, svg, trained, words
from cnn_jax.report.inside_sweep.cells import Network

IMAGES, IMAGE_BYTES = 24, 150_000  # that are shown at most
WORK = 2e9  # limit of multiply-accumulates of all networks on all shown images
PAIRS = 6


def block(
    records: Sequence[stats.Record], networks: Sequence[Network], share: dict[int, float], images: pictures.Images | None
) -> str:
    """The markup: the matrix of all runs, and confused images with the answers of networks. May be empty.

    `share` is the share of runs that got each test image right.
    """
    counts_KK, runs = _matrix(records)
    body = ""
    if counts_KK is not None:
        names = _names(counts_KK, images)
        often = _pairs(counts_KK, names)
        sentence = f" Most often: {'; '.join(often)}." if often else " All answers are right."
        note = f"Answers of {words.count(runs, 'run')} on test images: labels are rows, answers columns.{sentence}"
        body += svg.tag("p", svg.escape(note), class_="note") + matrix.confusion(counts_KK, names)
    best = [n for n in networks if n.role != "median seed"]
    body += _gallery(len(records), best, share, images) if images else ""
    return f"<h3>Which class is taken for which</h3>{body}" if body else ""


def pictures_of(records: Sequence[stats.Record], images: pictures.Images | None) -> list[str]:
    """The matrix of all runs as a picture, if runs recorded one."""
    counts_KK, _ = _matrix(records)
    return [] if counts_KK is None else [matrix.confusion(counts_KK, _names(counts_KK, images))]


def _names(counts_KK: np.ndarray, images: pictures.Images | None) -> Sequence[str]:
    """Names of the classes, or their numbers."""
    fits = images is not None and len(images.class_names) == len(counts_KK)
    return images.class_names if images is not None and fits else tuple(map(str, range(len(counts_KK))))


def _matrix(records: Sequence[stats.Record]) -> tuple[np.ndarray | None, int]:
    """Sum of the matrices of the runs that recorded one, of the size that the first has, and their number."""
    total, runs = None, 0
    for record in records:
        if record.get("confusion"):
            found = confusion.decode(record["confusion"]).astype(np.int64)
            if total is None or total.shape == found.shape:
                total, runs = found if total is None else total + found, runs + 1
    return total, runs


def _pairs(counts_KK: np.ndarray, names: Sequence[str]) -> list[str]:
    """The most frequent confusions, as '8 for 1 (3.10 % of 8)'."""
    wrong_KK = counts_KK * ~np.eye(len(counts_KK), dtype=bool)
    order = np.argsort(-wrong_KK, axis=None, kind="stable")[:PAIRS]
    places = zip(*np.unravel_index(order, wrong_KK.shape), strict=True)
    return [
        f"{names[i]} for {names[j]} ({words.percent(wrong_KK[i, j] / counts_KK[i].sum())} of class {names[i]})"
        for i, j in places
        if wrong_KK[i, j]
    ]


def _gallery(runs: int, networks: Sequence[Network], share: dict[int, float], images: pictures.Images) -> str:
    shape = next(iter(images.examples.values()))[0].shape if images.examples else ()
    stored = {i: one for i, one in (images.picked | images.test).items() if one[0].shape == shape}
    wrong = sorted((i for i in stored if share.get(i, 1.0) < 1), key=lambda i: (share[i], i))[:IMAGES]
    if not wrong:
        return ""
    asked, answers = _answers(networks, [stored[i][0] for i in wrong])
    items, size = [], 0
    for at, index in enumerate(wrong):
        image, label = stored[index]
        address = pictures.png(image)
        size += len(address)
        if size > IMAGE_BYTES:
            break
        counts = collections.Counter(images.class_names[votes[at]] for votes in answers)
        counts.pop(label, None)
        taken = " → " + ", ".join(f"{name} ({n})" for name, n in counts.most_common(2)) if counts else ""
        caption = f"{svg.escape(label + taken)}<br><small>#{index}, right in {100 * share[index]:.0f} %</small>"
        items.append(trained.picture(address, image.shape, f"test image {index} of class {label}", caption))
    by = f" Behind the arrow: what the best seeds of {words.count(asked, 'cell')} take it for." if asked else ""
    note = (
        "The stored test images that most runs get wrong, with their labels, and the share of "
        f"{words.count(runs, 'run')} that gets them right.{by}"
    )
    return svg.tag("p", svg.escape(note), class_="note") + svg.tag("div", "".join(items), class_="gallery confused")


def _answers(networks: Sequence[Network], images: Sequence[np.ndarray]) -> tuple[int, list[np.ndarray]]:
    """Number of networks within `WORK`, and the class (N,) that each gives to the images."""
    answers: list[np.ndarray] = []
    work = 0.0
    for network in networks:
        work += len(images) * (network.record.get("macs") or 0)
        if work > WORK:
            break
        answers.append(network.logits(np.array(images)).argmax(axis=-1))
    return len(answers), answers
