"""Class counts: pixels and images of each class, and class locations."""

from segtrain.class_counts.count import ClassCounts, count_classes, default_cache

__all__ = ["ClassCounts", "count_classes", "default_cache"]
