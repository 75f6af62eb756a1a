"""Files to one linked address space: sections, symbols, applied relocations, load-time patch sites."""
