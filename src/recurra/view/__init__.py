"""Pictures of what was learnt and predicted."""
