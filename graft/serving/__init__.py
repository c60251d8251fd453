"""What a trained classifier is used for: predictions, exports, explanations."""
