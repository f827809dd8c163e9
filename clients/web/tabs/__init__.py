"""The tabs of the page, one module each; `build(parts)` adds what is the tab's own."""
