"""`lossrag benchmark`: costs as medians of paired ratios."""
