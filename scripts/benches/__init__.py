"""The benchmarks of `scripts/bench`: each has `add_arguments(parser)` and `measure(options) -> Report`."""
