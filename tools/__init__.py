"""Developer tools: standard library only, each runs as a script and is imported by its test."""
