"""What a job can cost at most."""

from tallystick.protocol.money import NanoUsd, TokenCount, charge
from tallystick.protocol.parameters import Parameters


def worst_case(
    prompt_tokens: int, parameters: Parameters, input_price: NanoUsd, output_price: NanoUsd
) -> NanoUsd:
    """Return the most that a job can charge: all of its prompt once, and `max_tokens` of answer.

    However many nodes share the answer: the prompt is billed once, and an output token to one of them.
    """
    given = charge(TokenCount(prompt_tokens), input_price)
    made = charge(TokenCount(parameters.max_tokens), output_price)
    return NanoUsd(given + made)
