"""How fast the engine is, against the floor of the same SQL in bare APSW: one file a question. See README.md."""
