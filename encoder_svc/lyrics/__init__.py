"""Lyrics to token ids, line by line, with an account of what became of each line. No torch."""
