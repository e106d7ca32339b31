"""The built-in projections, in the order in which their tables depend on each other."""

from engine.projections.builtin.messages import MESSAGES
from engine.projections.builtin.parts import PARTS
from engine.projections.builtin.sessions import SESSIONS
from engine.projections.builtin.tools import TOOLS
from engine.projections.builtin.usage import USAGE

BUILT_IN_PROJECTIONS = (SESSIONS, MESSAGES, PARTS, TOOLS, USAGE)

__all__ = ["BUILT_IN_PROJECTIONS"]
