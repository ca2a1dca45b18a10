"""The coordinator's commands: `tallystick up`, `credit`, `books`."""
