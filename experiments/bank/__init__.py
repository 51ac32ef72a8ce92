"""Command `lossrag bank`: what a bank remembers, shown and kept."""
