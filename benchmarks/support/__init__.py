"""What the benchmark scripts share: moments of gradients, timing, reports, models and the code of peers."""
