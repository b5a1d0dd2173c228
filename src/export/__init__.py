"""Writing a network in formats that run without this project: ONNX, MINDIR and AIR."""
