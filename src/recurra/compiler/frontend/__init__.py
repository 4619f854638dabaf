"""What a step means: its graph, the graph's derivative and structure."""
