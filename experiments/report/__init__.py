"""Report: finished runs as one self-contained HTML file, `lossrag report`."""
