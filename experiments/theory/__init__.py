"""The paper's three theorems on a run of one's own."""
