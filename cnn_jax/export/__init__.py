"""Trained networks as files for other programs: a module per format, and `write.export` for all of them.

A file takes images as they are stored, 0 to 255, normalizes them itself, and gives logits; safetensors holds arrays alone.
"""
