"""Images and masks: datasets, image files, augmentation, sampling, loaders."""
