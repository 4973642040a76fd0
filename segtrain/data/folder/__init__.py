"""Datasets in folders: which files there are, and what is in them."""

from segtrain.data.folder.folder import Folder

__all__ = ["Folder"]
