"""NIM4-ASR in the open: build, understand and ship LLM-based speech recognition."""
