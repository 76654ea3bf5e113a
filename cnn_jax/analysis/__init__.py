"""Analysis of trained networks: `open_trial`, and functions that inspect features, filters and attributions."""
