"""Retraining Keras models in TensorFlow: built from declarations, on one declared arithmetic."""
