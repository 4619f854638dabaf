"""What people do with sequences: forecasting, classifying and the like, over any recurrence."""
