"""What knows devices: engines, precision, weights, memory."""
