"""The parts of the SDK that do no input or output; `tallystick.client` gives them two colours."""
