"""Everything that reads from a stranger without an application around it; `bodies` has the rest."""

from tests.fuzz import files, nodes, wire, words
from tests.fuzz.driver import Parser

PARSERS: tuple[Parser, ...] = (*wire.PARSERS, *nodes.PARSERS, *words.PARSERS, *files.PARSERS)
