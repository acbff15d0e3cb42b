"""ONNX graphs: writing, checking and running them."""
