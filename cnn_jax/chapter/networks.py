"""The networks of a sweep by their role in the claims. No JAX."""

import dataclasses
from collections.abc import Sequence

from cnn_jax import stats

DEEP = 3  # minimum convolutions for first, middle and later layers


@dataclasses.dataclass(frozen=True)
class Networks:
    """Cells with a finished trial, fewest parameters first.

    Attributes:
      convnets: `cnn` with max pooling.
      dense: `mlp`.
      pairs: convnets, each with the dense network of the same size.
      pooling: a convnet with max pooling and the same network with strides instead; None if either is missing.
      lenet: LeNet-5.
    """

    convnets: tuple[stats.Cell, ...]
    dense: tuple[stats.Cell, ...]
    pairs: tuple[tuple[stats.Cell, stats.Cell], ...]
    pooling: tuple[stats.Cell, stats.Cell] | None
    lenet: stats.Cell | None

    @classmethod
    def of(cls, records: Sequence[stats.Record]) -> "Networks":
        """Select the networks from the records of one data set."""
        done = [record for record in records if record["status"] == "done"]
        cells = sorted(stats.design(done).cells, key=lambda cell: cell.fact("params") or 0)
        pools = {id(cell): _level(cell, "pool", "max") for cell in cells}
        models = {id(cell): cell.config["model"]["name"] for cell in cells}
        convnets = [cell for cell in cells if models[id(cell)] == "cnn" and pools[id(cell)] == "max"]
        dense = [cell for cell in cells if models[id(cell)] == "mlp"]
        strided = [cell for cell in cells if models[id(cell)] == "cnn" and pools[id(cell)] == "stride"]
        return cls(
            tuple(convnets),
            tuple(dense),
            tuple((a, b) for a in convnets for b in dense if _same_but(a, b, "name")),
            next(((a, b) for a in convnets for b in strided if _same_but(a, b, "options")), None),
            next((cell for cell in cells if models[id(cell)].startswith("lenet5")), None),
        )

    @property
    def deep(self) -> tuple[stats.Cell, ...]:
        """Convnets with three convolutions or more."""
        return tuple(cell for cell in self.convnets if depth(cell) >= DEEP)

    @property
    def chapters(self) -> stats.Cell | None:
        """The convnet closest to the chapter's: the widest with one convolution, or else the first."""
        single = [cell for cell in self.convnets if depth(cell) == 1]
        return single[-1] if single else next(iter(self.convnets), None)

    @property
    def frugal(self) -> tuple[stats.Cell, stats.Cell] | None:
        """The smallest deep convnet and the largest dense network, if that has at least three times as many parameters."""
        if not self.deep or not self.dense:
            return None
        small, large = self.deep[0], self.dense[-1]
        return (small, large) if (large.fact("params") or 0) >= DEEP * (small.fact("params") or 1) else None

    @property
    def lenet_pair(self) -> tuple[stats.Cell, stats.Cell] | None:
        """LeNet-5 and the largest dense network with at most as many parameters."""
        if self.lenet is None:
            return None
        smaller = [cell for cell in self.dense if (cell.fact("params") or 0) <= (self.lenet.fact("params") or 0)]
        return (self.lenet, smaller[-1]) if smaller else None


def depth(cell: stats.Cell) -> int:
    """Return the number of convolutions of a cell's network."""
    return len(cell.config["model"].get("filters") or ())


def label(cell: stats.Cell) -> str:
    """'cnn 16-32-64', 'cnn 32, strides for pooling', 'LeNet-5'."""
    model = cell.config["model"]
    if model["name"].startswith("lenet5"):
        return "LeNet-5"
    strides = ", strides for pooling" if _level(cell, "pool", "max") == "stride" else ""
    return f"{model['name']} {'-'.join(map(str, model.get('filters') or ()))}{strides}".strip()


def _level(cell: stats.Cell, option: str, default: str) -> object:
    return stats.flat(cell.config | {"seed": 0}).get(option, default)


def _same_but(a: stats.Cell, b: stats.Cell, field: str) -> bool:
    """Whether the models of two cells differ only in one field, ignoring options that only one model has."""
    left_out = {field, "options"}
    one, other = ({k: v for k, v in cell.config["model"].items() if k not in left_out} for cell in (a, b))
    rest = [{k: v for k, v in cell.config.items() if k != "model"} for cell in (a, b)]
    return one == other and rest[0] == rest[1]
