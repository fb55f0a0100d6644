"""The training program on the device: pure functions of arrays, without files, clocks or Weights & Biases."""
