"""A procedural band: songs with exact labels, rendered with a free soundfont and sung by a small synthesiser."""
