"""Training of small networks of the paper's families on photographs: data, objectives, the loop, exports."""
