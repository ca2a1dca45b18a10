"""The benchmarks behind `scripts/bench`: one module each, with `add_arguments(parser)` and `measure(options)`, a Report."""
