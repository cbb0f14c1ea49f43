"""Text: its written form, its sounds, its tokens and the prompt around the speech."""
