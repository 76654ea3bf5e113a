"""All results on the chapter from the folder of a sweep."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cnn_jax import stats
from cnn_jax.analysis import over_seeds
from cnn_jax.chapter import geometry, looks, sentences
from cnn_jax.chapter.claims import Claim
from cnn_jax.chapter.evidence import MEASURES, Evidence
from cnn_jax.chapter.geometry import AsDense, Row
from cnn_jax.chapter.networks import Networks
from cnn_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Findings:
    """The claims and the data of their pictures.

    Attributes:
      dataset: name of the data set.
      seeds: minimum number of finished seeds per cell.
      claims: in the order of the chapter, with verdicts.
      evidence: their measurements.
      rows: layers of the chapter's network.
      dense: its first convolution as a dense layer.
      looks: arrays of the pictures.
    """

    dataset: str
    seeds: int
    claims: list[Claim]
    evidence: Evidence
    rows: list[Row]
    dense: AsDense
    looks: looks.Looks

    def count(self, verdict: str) -> int:
        """Count the sentences with a verdict."""
        return sum(claim.verdict == verdict for claim in self.claims)


def find(folder: Path, records: Sequence[stats.Record]) -> Findings:
    """Test the sentences on the trained networks of a sweep. Args:
      folder: of the sweep.
      records: of its trials, of one data set.

    Raises:
      UsageError: the sweep has no convnet, its parameters were not kept, or its data have changed.
    """
    networks = Networks.of(records)
    chapters = networks.chapters
    if chapters is None:
        raise UsageError(f"{folder} holds no finished cnn with max pooling, the network of the chapter: omit --model")
    cells = [*networks.convnets, *(networks.pooling or ())]
    only = {record["trial"] for cell in cells for record in cell.done}
    evidence = Evidence(networks, over_seeds.measure(folder, MEASURES, only=only))
    network = looks.best_of(folder, chapters)
    image = network.dataset().test_images[0]
    rows, dense = geometry.layers(network, image), geometry.as_dense(network, image)
    deep = looks.best_of(folder, (networks.deep or (chapters,))[-1])
    return Findings(
        str(chapters.config["data"]["dataset"]),
        min(len(cell.done) for cell in (*cells, *networks.dense)),
        sentences.claims(evidence, rows, dense),
        evidence,
        rows,
        dense,
        looks.look(network, deep),
    )
