"""Oxford-IIIT Pets on disk and in memory: download, cache, augmentation, batches, and a drawn toy version."""
