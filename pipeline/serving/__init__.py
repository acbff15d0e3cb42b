"""Using what was trained: encoding, predicting, exporting. ONNX Runtime does the work unless MXNet is asked for."""
