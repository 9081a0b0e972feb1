"""Logs that people already have: CSV, JSON, TensorBoard, Weights & Biases and Hugging Face."""
