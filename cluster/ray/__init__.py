"""Workers as Ray actors: connecting, pinning, inspecting, keeping logs."""
