"""Training of both networks with Accelerate."""
