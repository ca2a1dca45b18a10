"""HTTP in and out. A dialect (`openai/` …) reads and renders one surface; none talks to another."""
