"""Running a trained model token by token, in constant memory."""
