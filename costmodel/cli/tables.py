"""Tables in, pages out, and what is measured: ``score``, ``report``, ``validate``."""

COMMANDS = ()
