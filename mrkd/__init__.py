"""Defects in product images, found by masked reverse knowledge distillation, at scale on Ray."""

__version__ = "0.1.0"
