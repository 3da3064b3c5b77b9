"""PaW: policy and world-model co-training for language agents, on PyTorch Lightning."""

__version__ = "0.1.0"
