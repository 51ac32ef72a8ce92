"""`lossrag figures`: the paper's figures from finished runs."""
