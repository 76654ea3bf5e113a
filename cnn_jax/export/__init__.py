"""Export of trained networks to other programs: a module per format, and `write.export` for all formats.

An exported network takes images 0 to 255, includes normalization, and returns logits; safetensors has arrays only.
"""
