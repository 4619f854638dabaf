"""What is to be computed, and in which order: schedules, and what is kept for the way back."""
