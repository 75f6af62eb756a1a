"""Tables, SVG and HTML for people."""
