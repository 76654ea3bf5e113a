"""Descriptions of networks: layer tables, diagrams, and their output as text and JSON."""

from cnn_jax.description.describe import describe
from cnn_jax.description.diagram import MOST_BLOCKS, outline
from cnn_jax.description.text import COLUMNS, CONVENTION, notes, title, to_json, to_rows, to_text

__all__ = ["COLUMNS", "CONVENTION", "MOST_BLOCKS", "describe", "notes", "outline", "title", "to_json", "to_rows", "to_text"]
