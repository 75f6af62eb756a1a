"""Which addresses and values each I/O site uses, per calling context, and the slices that decide them."""
