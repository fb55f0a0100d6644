"""``td3-brax export``: a policy as an ONNX model, and as a folder with a model card."""
