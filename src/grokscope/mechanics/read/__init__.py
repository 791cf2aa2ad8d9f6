"""What can be read off a state: lens, tuned lens, probe; the traces that keep it, and rates over probes."""
