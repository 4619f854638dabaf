"""How a plan is written as LLVM's language. Knows no machine but by the width of a vector."""
