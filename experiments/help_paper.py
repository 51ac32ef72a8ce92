"""The help texts of the commands that redo the paper's figures and theorems; they import nothing heavy."""

FIGURES_HELP = """\
lossrag figures runs=[DIR,...] | root=FOLDER [output=figures] [only=[accuracy,...]] [epochs=[1,2]]

Draw the paper's figures from finished runs, as PNG (300 dpi) and PDF.

  gaps        1, 6, 7       support, query and test loss per task under uniform weights
  accuracy    2, 3, 10, 11  every method on every task, all runs
  rho         4             accuracy against the query-split ratio, MetaWeighting
  alpha       5             accuracy against the step size of the weights, MetaWeighting
  weights     8, 9, 12      how the task weights move, a panel per method

  epochs=[500,1000,1500]    which ones gaps shows; default: a third, two thirds, the end
"""

THEORY_HELP = """\
lossrag theory run=DIR [loss=one_minus_p | zero_one] [delta=0.05] [draws=2] [epochs=10]

Theorems 1 to 3 of the paper on a finished run, with a loss in [0, 1]; numbers go to DIR/theory.json.
For each of the draws a fresh model of the run's class is trained on random signs for so many epochs.
"""

SWEEP_HELP = """\
lossrag sweep key=KEY values=[A,B,...] [seeds=[0,1,2]] [processes=2] [root=runs/sweep] [key=value ...]

`lossrag train` for every value and seed; what else is said goes to every run. Finished runs are not repeated, half
ones resume.

  lossrag sweep experiment=topic_quick key=tasks.rho values=[0.01,0.05,0.1,0.2,0.3,0.4] seeds=[0,1,2]
  lossrag sweep experiment=topic_quick key=weighting.alpha values=[0.005,0.02,0.1] seeds=[0,1,2]
  lossrag figures root=runs/sweep only=[rho,alpha]
"""
