"""inspect.html: what trained networks learned, as one self-contained page. Reads arrays that `analysis.inside` made."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

import cnn_jax
from cnn_jax.report import html, matrix, page_tables, pictures, svg, tiles, words

if TYPE_CHECKING:
    from cnn_jax.analysis.attributions import Attribution
    from cnn_jax.analysis.cell import SeedsOfCell
    from cnn_jax.analysis.inside import Inside, LayerView
    from cnn_jax.analysis.kernels import Film
    from cnn_jax.analysis.panels import Panel

KERNELS, MAPS, WRONG = 64, 16, 24  # that are shown of each
STRIPS, FRAMES, FRAME = 32, 10, 30  # filters of the film, frames in a row, pixels of a frame
IMAGE_BYTES = 250_000  # of the page, for images of one section


@dataclasses.dataclass(frozen=True)
class Shown:
    """A network on the page: `role` is why it is shown, as 'best on validation'; '' for one named by the user.

    `film` are its kernels over the training, where snapshots were kept.
    """

    inside: "Inside"
    cell: "SeedsOfCell"
    role: str = ""
    panels: "tuple[Panel, ...]" = ()
    film: "Film | None" = None

    @property
    def title(self) -> str:
        """'seed 1, best on validation'."""
        trial = self.inside.network.trial
        return ", ".join(filter(None, (f"seed {trial.seed}" if trial else "", self.role)))


def page(networks: Sequence[Shown]) -> str:
    """The page of some networks as the text of one HTML file."""
    parts: list[tuple[str, str, str]] = []
    for i, shown in enumerate(networks):
        for k, (anchor, word, markup) in enumerate(_sections(shown)):
            if len(networks) > 1:
                markup = markup.replace("</h2>", f": {svg.escape(shown.title)}</h2>", 1)
                word = f"{_short(shown)}: {word}" if k == 0 else word
            parts.append((f"{anchor}_{i}" if i else anchor, word, markup))
    css = html.style("page.css") + html.style("inside.css")
    return html.document(f"cnn_jax: inside {_models(networks)}", _header(networks), parts, _footer(), css)


def _short(shown: Shown) -> str:
    return f"Seed {shown.inside.network.trial.seed}" if shown.inside.network.trial else "Network"


def _models(networks: Sequence[Shown]) -> str:
    found = dict.fromkeys(s.inside.network.trial.model.name for s in networks if s.inside.network.trial)
    return ", ".join(found)


def _header(networks: Sequence[Shown]) -> str:
    first = networks[0].inside
    kicker = svg.tag("p", svg.escape(f"inside {_models(networks)}, {first.dataset.info.name}"), class_="kicker")
    sentences = svg.tag("ul", "".join(svg.tag("li", svg.escape(text)) for text in map(sentence, networks)), class_="details")
    facts = _facts(networks[0]) if len(networks) == 1 else ""
    return f"<header><div>{kicker}{svg.tag('h1', svg.escape(headline(networks[0])))}{sentences}{facts}</div></header>"


def headline(shown: Shown) -> str:
    """The answer in one sentence: accuracy and the most frequent confusion."""
    inside = shown.inside
    total, wrong = len(inside.logits), len(inside.mistakes)
    share = f"{words.percent(1 - wrong / total)} of {total:,} test images right"
    pairs = confused_pairs(inside, 1)
    often = f"; most often it takes {pairs[0]}" if pairs else ""
    return f"{inside.network.trial.model.name if inside.network.trial else 'The network'} gets {share}{often}."


def sentence(shown: Shown) -> str:
    """A network's name, role, accuracies and mistakes."""
    record, trial = shown.inside.network.record, shown.inside.network.trial
    if record is None or trial is None:
        return shown.title
    validation = "" if record.val_accuracy is None else f", validation accuracy {words.percent(record.val_accuracy)}"
    wrong = words.count(len(shown.inside.mistakes), "wrong answer")
    accuracy = "" if record.test_accuracy is None else f"test accuracy {words.percent(record.test_accuracy)}"
    return f"{trial.id}{f' ({shown.role})' if shown.role else ''}: {accuracy}{validation}; {wrong}."


def confused_pairs(inside: "Inside", count: int) -> list[str]:
    """The most frequent confusions, as '4 for 9 (23 images)'."""
    names = inside.dataset.info.class_names
    wrong_KK = inside.matrix * ~np.eye(len(inside.matrix), dtype=bool)
    order = np.argsort(-wrong_KK, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(order, wrong_KK.shape)
    return [
        f"{names[i]} for {names[j]} ({words.count(int(wrong_KK[i, j]), 'image')})"
        for i, j in zip(rows, columns, strict=True)
        if wrong_KK[i, j]
    ]


def _facts(shown: Shown) -> str:
    inside, record = shown.inside, shown.inside.network.record
    facts = [("wrong", f"{len(inside.mistakes):,} of {len(inside.logits):,}")]
    if record is not None and record.params is not None:
        facts.append(("parameters", f"{record.params:,}"))
    facts += [
        (f"silent in {view.name}", f"{int(view.responses.silent.sum())} of {view.shape[-1]}") for view in inside.layers[:-1]
    ]
    boxes = "".join(f"<div><dt>{svg.escape(k)}</dt><dd>{svg.escape(v)}</dd></div>" for k, v in facts)
    return f'<dl class="facts">{boxes}</dl>'


def _sections(shown: Shown) -> Iterator[tuple[str, str, str]]:
    inside = shown.inside
    yield "kernels", "Kernels", _kernels(inside)
    yield "film", "Film", _film(shown)
    yield "maps", "Maps", _maps(inside)
    for view in inside.layers:
        yield f"excitation_{view.name}", f"{view.name}", _excitation(inside, view)
    yield "saliency", "Saliency", _saliency(inside)
    for panel in shown.panels:
        yield f"panel_{panel.name}", panel.name, _panel(panel)
    yield "confusion", "Confusion", _confusion(inside)
    yield "confused", "Mistakes", _mistakes(inside)
    yield "never", "Never right", _never(shown)


def figure(tile: tiles.Tile, what: str, caption: str = "", *more: tuple[tiles.Tile, str]) -> str:
    """A picture, or several in a row, with a caption, which is markup; `what` is its text alternative."""
    both = [svg.tag("img", src=pictures.png(t), alt=text, width=t.shape[1]) for t, text in ((tile, what), *more)]
    image = svg.tag("div", "".join(both), class_="pair-of") if more else both[0]
    return svg.tag("figure", image + (svg.tag("figcaption", caption) if caption else ""))


# ---------------------------------------------------------------------------------------------------------------- sections


def _kernels(inside: "Inside") -> str:
    found = inside.kernels
    if found is None:
        return ""
    scaled = found.scaled
    grey = found.values.shape[-1] not in (1, 3)
    figures = [
        figure(tiles.fitted(tiles.image(kernel), 60), f"kernel of channel {i} of {found.layer}", str(i))
        for i, kernel in enumerate(scaled[:KERNELS])
    ]
    largest = float(np.abs(found.values).max(initial=0.0))
    more = f" The first {KERNELS} of {len(scaled)} are shown." if len(scaled) > KERNELS else ""
    shown = "in colour, as the image's channels have it" if found.values.shape[-1] == 3 else "white is positive, black negative"
    note = (
        f"The weights of {found.layer}, which sees the image itself: {shown}; grey is 0. All have one scale, up to "
        f"{largest:.3g}.{' Means over the channels.' if grey else ''}{more}"
    )
    return page_tables.heading("First-layer kernels", note) + svg.tag("div", "".join(figures), class_="tiles")


def _film(shown: Shown) -> str:
    """A strip per filter: its kernel at each epoch, from left to right."""
    film = shown.film
    if film is None:
        return ""
    frames_EF = film.scaled
    figures = []
    for i in range(min(frames_EF.shape[1], STRIPS)):
        small = [np.pad(tiles.fitted(tiles.image(frame), FRAME), ((0, 0), (3, 3), (0, 0))) for frame in frames_EF[:, i]]
        what = f"kernel of channel {i} of {film.layer} at epochs {', '.join(map(str, film.epochs))}"
        figures.append(figure(tiles.montage(small, FRAMES), what, str(i)))
    more = f" The first {STRIPS} of {frames_EF.shape[1]} are shown." if frames_EF.shape[1] > STRIPS else ""
    grey = "" if film.values.shape[-1] in (1, 3) else " Means over the channels."
    note = (
        f"The kernels of {film.layer} after epochs {', '.join(map(str, film.epochs))}, from left to right; 0 is before "
        f"training. All have one scale, up to {float(np.abs(film.values).max(initial=0.0)):.3g}; mid-grey is 0.{grey}{more}"
    )
    return page_tables.heading("Kernels over the training", note) + svg.tag("div", "".join(figures), class_="tiles")


def _label(inside: "Inside", index: int) -> str:
    """'7', or '4, taken for 9'."""
    names, label, answer = inside.dataset.info.class_names, inside.dataset.test_labels[index], inside.answers[index]
    return f"{names[label]}" if label == answer else f"{names[label]}, taken for {names[answer]}"


def _maps(inside: "Inside") -> str:
    if not inside.maps:
        return ""
    tops = {name: tiles.robust_top(maps) for name, maps in inside.maps.items()}
    out = []
    for e, index in enumerate(inside.examples):
        picture = tiles.fitted(tiles.image(inside.dataset.test_images[index]), 112)
        seen = figure(picture, f"test image {index}", f"<b>{svg.escape(_label(inside, index))}</b> #{index}")
        figures = []
        for name, maps in inside.maps.items():
            shown = range(min(maps.shape[-1], MAPS))
            if maps.ndim == 4:
                small = [tiles.fitted(tiles.sequential(maps[e, ..., c], tops[name]), 64) for c in shown]
            else:
                small = [tiles.fitted(tiles.sequential(maps[e, c].reshape(1, 1), tops[name]), 20) for c in shown]
            caption = f"<b>{svg.escape(name)}</b> channels 0 to {len(shown) - 1} of {maps.shape[-1]}"
            figures.append(figure(tiles.montage(small, 8), f"maps of {name} for test image {index}", caption))
        both = svg.tag("div", seen, class_="tiles") + svg.tag("div", "".join(figures), class_="tiles")
        out.append(svg.tag("div", both, class_="example of-maps"))
    note = (
        "What each layer makes of a test image: violet is 0 and less, yellow the largest values of the layer, one scale for "
        "all channels and images of a layer. A map that is violet everywhere found nothing in this image."
    )
    return page_tables.heading("Feature maps", note) + svg.tag("div", "".join(out), class_="examples")


def _excitation(inside: "Inside", view: "LayerView") -> str:
    logits = view.name == inside.network.layers[-1]
    names, figures, size = inside.dataset.info.class_names, [], 0
    for i, channel in enumerate(view.channels):
        caption = _channel_caption(view, i, names[channel] if logits and channel < len(names) else "")
        small = [tiles.fitted(tiles.image(patch.pixels, patch.inside), 34) for patch in view.patches[i]]
        best = tiles.montage(small, 3)
        pixels = view.window[i]
        maximised = tiles.fitted(tiles.image(pixels.pixels, pixels.inside), max(best.shape[:2]))
        markup = figure(best, f"images that excite channel {channel} most", caption, (maximised, "maximised input"))
        size += len(markup)
        if size > 4 * IMAGE_BYTES:
            break
        figures.append(markup)
    total = view.shape[-1]
    sees = "the whole image" if view.field is None else f"{'×'.join(map(str, view.field))} pixels"
    rest = f" {len(figures)} of {total} channels are shown." if len(figures) < total else ""
    silent = int(view.responses.silent.sum())
    dead = f" {words.count(silent, 'channel')} of {total} stay at 0 or below for every test image." if silent else ""
    note = (
        f"Left: the nine test images that excite a channel most, each cut to what its strongest position sees, {sees}; what is "
        f"outside of the image, or hidden by padding, is left out. Right: an input that a gradient ascent found, from grey, "
        f"to excite the channel; grey has no influence.{dead}{rest}"
    )
    title = f"What excites {view.name}" if not logits else f"What excites the classes ({view.name})"
    return page_tables.heading(title, note) + svg.tag("div", "".join(figures), class_="tiles cards")


def _channel_caption(view: "LayerView", i: int, name: str) -> str:
    channel = view.channels[i]
    top, reached = float(view.top.values[channel, 0]), float(view.maximised.values[i])
    title = svg.escape(name) if name else f"channel {channel}"
    silent = " silent;" if view.responses.silent[channel] else ""
    return f"<b>{title}</b>{silent} images {number(top)}, maximised {number(reached)}"


def number(value: float) -> str:
    """An output in few characters: '0.63', '12', '1300'."""
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"


def _saliency(inside: "Inside") -> str:
    if not inside.attributions:
        return ""
    examples = []
    for e, index in enumerate(inside.examples):
        answer = inside.dataset.info.class_names[inside.answers[index]]
        picture = tiles.fitted(tiles.image(inside.dataset.test_images[index]), 112)
        figures = [figure(picture, f"test image {index}", f"<b>why {svg.escape(answer)}?</b> #{index}")]
        figures += [_attribution(found, e, index) for found in inside.attributions]
        examples.append(svg.tag("div", svg.tag("div", "".join(figures), class_="tiles methods"), class_="example"))
    rows = [(found.method, correlation_text(found), _blank_text(found)) for found in inside.attributions]
    columns = "method", "rank correlation", "blank pictures"
    images = words.count(len(inside.attributions[0].correlation), "image")
    below = (
        f"Mean of Spearman's rank correlation between the two rows over {images}: 1 is the same picture, 0 an unrelated one."
    )
    table = page_tables.table(columns, rows, label="Sanity check") + svg.tag("p", below, class_="note")
    note = (
        "Which pixels the logit of the network's answer depends on. Upper row: the trained network. Lower row: the same "
        "network with random parameters. A method whose two pictures are alike shows the image or the architecture, not what "
        "was learned (Adebayo et al. 2018). Violet to yellow: strength. Blue to orange: against and for the class. Each "
        "picture has its own scale."
    )
    check = svg.tag("div", table, class_="check")
    return page_tables.heading("Which pixels decide", note) + "".join(examples) + check


def _attribution(found: "Attribution", e: int, index: int) -> str:
    parts = []
    for values, network in ((found.trained[e], "trained"), (found.random[e], "random parameters")):
        top = tiles.robust_top(values)
        coloured = tiles.diverging(values, top) if found.signed else tiles.sequential(values, top)
        tile = tiles.fitted(coloured, 112)
        what = f"{found.method} of test image {index}, {network}"
        parts.append(svg.tag("img", src=pictures.png(tile), alt=what, width=tile.shape[1]))
    value = found.correlation[e]
    shown = "blank" if math.isnan(value) else signed(float(value))
    return svg.tag("figure", "".join(parts) + svg.tag("figcaption", f"<b>{svg.escape(found.method)}</b> {shown}"))


def correlation_text(found: "Attribution") -> str:
    """Mean rank correlation of a method's two pictures; a dash if none is defined."""
    known = found.correlation[~np.isnan(found.correlation)]
    return signed(float(known.mean())) if known.size else "–"


def signed(value: float) -> str:
    """Two decimals with a typographic minus, 0.00 without one."""
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")


def _blank_text(found: "Attribution") -> str:
    counts = [sum(np.ptp(picture) == 0 for picture in pictures) for pictures in (found.trained, found.random)]
    return f"trained {counts[0]}, random {counts[1]}" if any(counts) else "none"


def _panel(panel: "Panel") -> str:
    """A row per image: the image, and a picture of each array, all pictures of an array on one scale."""
    rows = []
    for i, image in enumerate(panel.images_NHWC):
        figures = [figure(tiles.fitted(tiles.image(image), 112), f"image {i}", "image")]
        numbers = [f"{key} {array[i]:.4g}" for key, array in panel.arrays.items() if array.ndim == 1]
        for key, array in panel.arrays.items():
            if array.ndim > 1:
                figures.append(figure(tiles.fitted(_picture(array, i), 112), f"{key} of image {i}", svg.escape(key)))
        rows.append(
            svg.tag("div", "".join(figures), class_="tiles") + svg.tag("p", svg.escape(" · ".join(numbers)), class_="note")
        )
    return page_tables.heading(panel.title, "") + "".join(rows)


def _picture(array: np.ndarray, index: int) -> tiles.Tile:
    if array.ndim == 4:
        return tiles.image(array[index])
    values = array.astype(float)
    top = float(np.abs(values).max(initial=0.0))
    return tiles.diverging(values[index], top) if (values < 0).any() else tiles.sequential(values[index], top)


def _confusion(inside: "Inside") -> str:
    picture = matrix.confusion(inside.matrix, inside.dataset.info.class_names)
    pairs = confused_pairs(inside, 8)
    often = f" Most often: {'; '.join(pairs)}." if pairs else ""
    note = f"Test images by their label (rows) and the network's answer (columns).{often}"
    return page_tables.heading("Which class is taken for which", note) + picture


def _mistakes(inside: "Inside") -> str:
    names, figures, size = inside.dataset.info.class_names, [], 0
    for mistake in inside.mistakes[:WRONG]:
        tile = tiles.fitted(tiles.image(inside.dataset.test_images[mistake.image]), 84)
        caption = (
            f"<b>{svg.escape(names[mistake.label])} → {svg.escape(names[mistake.answer])}</b> "
            f"{words.percent(mistake.of_answer)}<br>#{mistake.image}"
        )
        markup = figure(tile, f"test image {mistake.image} of class {names[mistake.label]}", caption)
        size += len(markup)
        if size > IMAGE_BYTES:
            break
        figures.append(markup)
    total = len(inside.mistakes)
    wrong = words.count(total, "wrong answer")
    note = f"The {len(figures)} surest of {wrong}: label → answer, its probability, number of the image."
    if not figures:
        return page_tables.heading("Most confused images", "Every test image is right.")
    return page_tables.heading("Most confused images", note) + svg.tag("div", "".join(figures), class_="tiles")


def _never(shown: Shown) -> str:
    cell, inside = shown.cell, shown.inside
    if len(cell.records) < 2 or not cell.never_right:
        return ""
    figures: list[str] = []
    names, size = inside.dataset.info.class_names, 0
    for index in cell.never_right:
        tile = tiles.fitted(tiles.image(inside.dataset.test_images[index]), 84)
        label = names[inside.dataset.test_labels[index]]
        caption = f"<b>{svg.escape(label)}</b><br>#{index}"
        markup = figure(tile, f"test image {index} of class {label}", caption)
        size += len(markup)
        if size > IMAGE_BYTES or len(figures) == 2 * WRONG:
            break
        figures.append(markup)
    count = len(cell.never_right)
    more = f" {len(figures)} are shown." if len(figures) < count else ""
    note = (
        f"None of {len(cell.records)} seeds of this cell gets {words.count(count, 'image')} right. Labels stand below; a label "
        f"may be wrong.{more}"
    )
    return page_tables.heading("Images that no seed gets right", note) + svg.tag("div", "".join(figures), class_="tiles")


def _footer() -> str:
    text = "Arrays and numbers are in the files beside this page. Methods and sources: docs/inspect.md."
    return f"<footer>{text} cnn_jax {cnn_jax.__version__}.</footer>"
