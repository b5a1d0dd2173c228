"""Export to formats that run without this project: ONNX, MINDIR and AIR."""
