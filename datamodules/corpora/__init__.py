"""The field's public corpora, read from the folders that their users downloaded."""
