"""What the operating system is asked for: folders, signals, output whose reader may be gone, the network's absence."""
