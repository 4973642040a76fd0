"""segtrain trains segmentation models on badly imbalanced classes, and shows which setting wins."""

__version__ = "0.1.0"
