"""Batch transcription: all that a manifest lists into one file, which is gone on with after whatever happened."""
