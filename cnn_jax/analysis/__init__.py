"""What trained networks learned: `open_trial`, and functions that look inside."""
