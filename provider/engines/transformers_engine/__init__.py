"""The built-in engine: any causal language model of the `transformers` library, many jobs in one batch.

engine.py    the async face: jobs in, events out
loop.py      the thread that prefills, steps, samples and tells
running.py   one job on its way
runner.py    the forward passes: rows of one batch, or one by one where a model cannot batch
rows.py      keys and values of the rows of a batch
linear.py    linear layers by the faster library
loader.py    from a name to a model, its tokenizer and its manifest
prepare.py   what the first start with a model works out
sources.py   where the files are
cache.py     what is kept between starts
"""

from provider.engines.transformers_engine.engine import TransformersEngine

__all__ = ["TransformersEngine"]
