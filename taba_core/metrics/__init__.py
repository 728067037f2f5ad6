"""What measures pictures: feature extractors and distances of two images, one file each, found by being there."""
