"""Audio: files, features that are the same whole or in pieces, augmentation."""
