"""Speed, memory and power over batch size, sequence length and precision."""
