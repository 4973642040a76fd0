"""Class counts: pixels and images of each class, and where some of its pixels are."""

from segtrain.class_counts.count import ClassCounts, count_classes, default_cache

__all__ = ["ClassCounts", "count_classes", "default_cache"]
