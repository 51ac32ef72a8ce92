"""Configuration of a run: schema, composition, identity."""
