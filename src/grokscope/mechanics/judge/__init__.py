"""What is concluded: behaviour over training, share through the bridge, verdict, path, comparison."""
