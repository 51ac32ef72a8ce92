"""The help texts: they teach by example and import nothing heavy."""

MAIN_HELP = """\
lossrag - learn how much each task's loss counts, and which loss each task should use

  lossrag train                        MetaWeighting on four topic tasks, a few minutes on two cores
  lossrag train experiment=digits      four tasks on one shared input, seconds, no download
  lossrag train --help                 what can be set, and how
  lossrag benchmark step               what a step costs beside a uniform step
  lossrag benchmark --help

Results go to runs/<run id>/: summary.json, metrics.jsonl, trajectories.png, tensorboard/, checkpoints/.
"""

TRAIN_HELP = """\
lossrag train [key=value ...]

Start from a preset, change what you like. The same command resumes an interrupted run.

  experiment=topic_quick               the default: the paper's topic tasks in a few minutes
  experiment=topic_paper               the paper's own numbers (300-d GloVe, 3000 epochs)
  experiment=digits                    shared input, one regression among the tasks, seconds

  weighting=metaweighting | uniform | single_task      (single_task needs model.sharing=none)
  weighting.alpha=0.5                  step size of the task weights
  weighting.scale=paper | unit         keep eta/T in the hypergradient (Eq. 10), or absorb it in alpha
  weighting.inner=sgd | adam           plain gradient step as written, or through Adam's preconditioner
  weighting.constraint=none | nonnegative | simplex
  weighting.parameters=all | shared    which parameters enter the hypergradient
  outer.classification=one_minus_p     a bounded outer loss
  outer.batch_size=64                  query rows per step (default: train.batch_size)
  train.refit=true                     after the run, train once more on support and query

  tasks.edition=raw | stripped | normalised       tasks.rho=0.1       data.root=FOLDER
  model.filters=100   model.trainable_vectors=true   optimizer.lr=1e-3   train.epochs=10   seed=0
  train.precision=bf16                 autocast of the encoder, on machines that have it
  machine.device=cuda   machine.threads=2   run.root=FOLDER   run.again=true   log.every_steps=10

  lossrag train --cfg [key=value ...]  print the resolved configuration and stop

Look at it:  tensorboard --logdir runs
"""
