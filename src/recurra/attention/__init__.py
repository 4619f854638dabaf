"""Layers whose state grows with time: softmax attention and its relatives, one published layer per class."""
