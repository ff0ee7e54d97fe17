"""What the latents of images hold of the simulator's state."""
