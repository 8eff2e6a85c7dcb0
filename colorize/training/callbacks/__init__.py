"""What watches and steers a fit from outside the training step."""
