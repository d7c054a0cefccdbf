"""Language models from scratch: raw documents in, a small chat model out."""

__version__ = "0.1.0"
