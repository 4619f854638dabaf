"""Nonlinear steps in parallel over time, by Newton's method on the whole sequence."""
