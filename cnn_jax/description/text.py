"""Output of `describe`: table rows, aligned text, JSON."""

import dataclasses
from collections.abc import Sequence

from cnn_jax.aliases import JsonObject
from cnn_jax.nn import Description

CONVENTION = "MACs: multiply-accumulates of convolutions and dense layers for one image, without bias; padding counts"


def to_json(description: Description) -> JsonObject:
    """Convert a description to JSON types; undefined numbers are None."""
    layers = []
    for layer in description.layers:
        row = dataclasses.asdict(layer)
        row["padding"] = row.pop("pads")
        del row["warning"]  # listed in the totals, with the layer's name
        del row["fields"]
        layers.append(row)
    return {
        "model": description.model,
        "input_shape": description.input_shape,
        "layers": layers,
        "params": description.params,
        "macs": description.macs,
        "receptive_field": description.receptive_field,
        "activation_bytes": description.activation_bytes,
        "warnings": description.warnings,
    }


COLUMNS = ("layer", "kind", "output", "padding", "parameters", "MACs", "field", "stride", "bytes")


def title(description: Description) -> str:
    """Format the title: 'cnn on 28x28x1'."""
    return " ".join(filter(None, (description.model, "on", "x".join(map(str, description.input_shape)))))


def to_rows(description: Description) -> list[tuple[str, ...]]:
    """Format a row of `COLUMNS` per layer, then the totals."""
    rows = [
        (
            layer.name,
            layer.kind,
            "x".join(map(str, layer.output_shape)),
            _pads_text(layer.pads),
            f"{layer.params:,}",
            f"{layer.macs:,}",
            _sizes_text(layer.receptive_field),
            _sizes_text(layer.effective_stride),
            f"{layer.activation_bytes:,}",
        )
        for layer in description.layers
    ]
    d = description
    total = ("total", "", "x".join(map(str, d.output_shape)), "", f"{d.params:,}", f"{d.macs:,}")
    totals = (*total, _sizes_text(d.receptive_field), "", f"{d.activation_bytes:,}")
    return [*rows, totals]


def to_text(description: Description) -> str:
    """Format an aligned table, with the totals and the MAC convention below."""
    *rows, totals = to_rows(description)
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, totals, strict=True)]
    rule = "  ".join("─" * width for width in widths)

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            c.ljust(w) if i < 4 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    table = [line(COLUMNS), rule, *map(line, rows), rule, line(totals)]
    return "\n".join([title(description), "", *table, "", *notes(description)])


def notes(description: Description) -> list[str]:
    """Return the MAC convention and the warnings, a line each."""
    return [CONVENTION, *(f"Warning: {warning}" for warning in description.warnings)]


def _sizes_text(size: int | tuple[int, ...] | None) -> str:
    return "" if size is None else str(size) if isinstance(size, int) else "x".join(map(str, size))


def _pads_text(pads: tuple[tuple[int, int], ...] | None) -> str:
    """Format pads: '1' if all are equal, '0/1' if the ends differ, '1x2' if the axes differ."""
    if pads is None:
        return ""
    axes = [str(low) if low == high else f"{low}/{high}" for low, high in pads]
    return axes[0] if len(set(axes)) == 1 else "x".join(axes)
