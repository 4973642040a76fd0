"""Images and masks: datasets, image files, augmentation, order of samples, loaders."""
