"""What the benchmark scripts share: moments of gradients, timing, reports, the models and the peer."""
