"""Trained models written for use elsewhere: ONNX, PyTorch's layout, the model card."""
