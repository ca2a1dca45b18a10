"""The built-in engine: any causal language model of the `transformers` library, many jobs in one batch.

engine.py    the async face: jobs in, events out
loop.py      the thread that prefills, steps, samples and tells
running.py   one job on its way
runner.py    the forward passes: rows of one batch, or one by one where a model cannot batch
rows.py      keys and values of the rows of a batch
linear.py    linear layers by the faster library
loader.py    from a name to a model, its tokenizer and its manifest
ready.py     what is known of a model without loading it
prepare.py   how that is worked out, the first time
sources.py   where the files are
cache.py     what is kept between starts
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provider.engines.transformers_engine.engine import TransformersEngine

__all__ = ["TransformersEngine"]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds, and what only describes a model does without it.
    if name == "TransformersEngine":
        from provider.engines.transformers_engine.engine import TransformersEngine

        return TransformersEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
