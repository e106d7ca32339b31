"""An actor-based concurrent projection engine for agent runtimes."""
