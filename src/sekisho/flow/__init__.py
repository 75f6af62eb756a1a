"""P-code to functions, basic blocks, call graph, jump tables and targets of indirect calls."""
