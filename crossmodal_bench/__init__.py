"""Train, evaluate and rank adversarial image-text matching methods, fairly and reproducibly."""

__version__ = "0.1.0"
