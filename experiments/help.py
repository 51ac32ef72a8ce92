"""Help texts, all in one shape: usage, a sentence, what can be said. They teach by example and import nothing."""

MAIN_HELP = """\
lossrag - learn how much each task's loss counts, and which loss each task should use

  lossrag train                        MetaWeighting on four topic tasks, a few minutes on two cores
  lossrag train experiment=digits      four tasks on one shared input, seconds, no download
  lossrag new my_project               a folder with data, settings, a loss, an encoder and a test of your own
  lossrag benchmark step               what a step costs beside a uniform step
  lossrag ablate smoke                 compare settings over seeds
  lossrag compare experiment=smoke     weighting methods, equally tuned, over seeds
  lossrag sweep key=weighting.alpha values=[0.01,0.1]    one setting over several values and seeds
  lossrag figures root=runs            the paper's figures from finished runs
  lossrag report root=runs             runs as one HTML page: tables, curves, confusion matrices, commands
  lossrag theory run=runs/RUN          the paper's theorems beside the gaps of a run
  lossrag predict run=runs/RUN data=new.csv              what a finished run says about new rows
  lossrag evaluate run=runs/RUN data=labelled.csv        its scores on them
  lossrag export run=runs/RUN          its model for other programs
  lossrag check root=runs              which files of runs are damaged, and what they can be rebuilt from
  lossrag bank list                    the losses there are: look at them, ask for them
  lossrag COMMAND --help               what a command takes

Results go to runs/<run id>/: summary.json, metrics.jsonl, trajectories.png, tensorboard/, checkpoints/.
"""

COMMANDS_HELP = {
    "new": """\
lossrag new FOLDER

A small project that runs, to be changed into yours: a table, a preset, a loss and an encoder of your own, a test and a
README. A folder that is there and not empty is refused.

  lossrag new my_project
  cd my_project && lossrag train experiment=./experiment.yaml
""",
    "train": """\
lossrag train [-m] [key=value ...]

Start from a preset, change what you like. The same command resumes an interrupted run.

  lossrag train                        experiment=topic_quick: the paper's topic tasks in a few minutes
  lossrag train experiment=digits weighting=uniform seed=1
  lossrag train experiment=table tasks.data=my.csv 'tasks.targets=[income,hours]'      your own table (docs/table.md)

  experiment=digits                    shared input, one regression among the tasks, seconds
  experiment=sentiment_quick           14 sentiment tasks in minutes, with the corpus at hand (docs/data.md)
  experiment=bert_small                the topic tasks on a pre-trained encoder (docs/bert.md; extra bert)
  experiment=advmtl                    14 sentiment tasks with AdvMTL's adversarial model (docs/adversarial.md)
  experiment=mixed                     topic tasks with troubles of their own: no loss is right for all (docs/losses.md)
  experiment=mixed_sentiment | mixed_digits | mixed_bert        the same in small
  experiment=square/sentiment | square/newsgroups | square/domains          a run of a Latin square (docs/collect.md)
  experiment=paper/topic | paper/sentiment                      the settings of the paper: 3000 epochs, days on one core
                                       (docs/metaweighting.md); needs 300-d GloVe vectors, and stops without them
  experiment=paper/topic_bert | paper/sentiment_bert            the same with BERT-base, 50 epochs: for a GPU

  weighting=metaweighting | uniform | uncertainty | dwa | random | tchebycheff | bandit_mtl | dtp      (docs/methods.md)
  weighting=mgda | mgda_ub | gradnorm | pareto_mtl | epo | multi_dds
  weighting=single_task model.sharing=none
  weighting=fixed weighting.weights=[1,1,2,1]
  weighting=torchjd/upgrad | torchjd/dualproj | torchjd/mgda | torchjd/pcgrad | torchjd/imtl_g | torchjd/cagrad
  weighting=torchjd/aligned_mtl | torchjd/fairgrad | torchjd/krum | torchjd/gradvac | torchjd/pcd     (extra baselines)
  weighting.alpha=0.5                  step size of the task weights
  weighting.scale=paper | unit         keep eta/T in the hypergradient (Eq. 10), or absorb it in alpha
  weighting.inner=sgd | adam           plain gradient step as written, or through Adam's preconditioner
  weighting.constraint=none | nonnegative | simplex
  weighting.parameters=all | shared    which parameters enter the hypergradient
  outer.classification=one_minus_p     a bounded outer loss
  outer.average=class outer.metric=macro_accuracy               rare classes count as much as frequent ones
  outer.metric=f1 | accuracy           another score; more of them by kind in docs/table.md
  'tasks.corrupt={REC: {noise: symmetric, rate: 0.4}}'          wrong training labels, for research
  outer.batch_size=64                  query rows per step (default: train.batch_size)
  outer.every=8                        the outer problem in every 8th step alone
  train.patience=5                     end when validation has not been better for so many epochs
  train.refit=true                     after the run, train once more on support and query
  train.from=runs/RUN                  begin with the parameters of a finished run (docs/runs.md)

  loss.policy=retrieval                compose each task's loss from those that helped where it was alike
  loss.policy=fixed | uniform | random | gradient      its own, all, some by chance, by evidence (docs/losses.md)
  loss.policy=retrieval loss.bank=builtin | none | FILE.safetensors
  loss.policy=retrieval loss.bank_exclude=[newsgroups] loss.questions=[0,0.05] loss.risk=1 loss.k=8
  loss.policy=random loss.evidence=none | look_ahead | one_step               what moves shares in the run
  loss.policy=uniform loss.candidates=[mae,cross_entropy]
  loss.tasks.REC=symmetric_ce          the loss of a task alone, with loss.policy=fixed

  tasks=newsgroups | sentiment | domains        data.root=FOLDER        tasks.rho=0.1
  tasks=digits model=mlp
  tasks=table model=mlp tasks.data=my.csv tasks.targets=[income]              (docs/table.md)
  tasks.edition=raw | stripped | normalised     model=textcnn model.filters=100 model.trainable_vectors=true
  model.sharing=hard | none | shared_private
  model.sharing=shared_private model.adversarial=0.05 model.orthogonal=0.01 model.penalty=paper | unit  terms of AdvMTL
  model=bert model.encoder=minilm | FOLDER model.pooling=cls | mean model.frozen=true          (docs/bert.md)
  optimizer.lr=1e-3   train.epochs=10   train.batch_size=256   seed=0
  train.memory=low                     hold one task's gradient at a time instead of all
  train.precision=bf16                 autocast of the encoder, on machines that have it
  library=[my.py] tasks=mine model=mine loss.tasks.REC=mine     files of yours that register suites, encoders,
                                       weightings, losses, metrics go first, their names then (docs/own-suite.md)
  experiment=./mine.yaml               a preset of your own; --config-dir DIR: those in DIR/experiment
  machine.device=cuda   machine.threads=2   run.root=FOLDER   run.dir=FOLDER   run.again=true   log.every_steps=10
  log.contexts=true                    record what a bank remembers the tasks by (lossrag bank add)

  lossrag train -m weighting=uniform,gradnorm seed=0,1,2   several runs by Hydra's sweeper and launcher, one table
                                       (docs/many-runs.md)
  lossrag train --cfg experiment=digits        print the resolved configuration and stop; also --cfg hydra|all, --info
  torchrun --nproc-per-node=2 $(which lossrag) train ...   the same run on several devices (docs/devices.md)

Look at it:  tensorboard --logdir runs
""",
    "benchmark": """\
lossrag benchmark SUBJECT [key=value ...] [output=benchmark.json]
lossrag benchmark plot scaling.json [output=cost.png]

Costs as medians of paired ratios (docs/cost.md).

  step            MetaWeighting beside a uniform step on TextCNN; on a shared input beside T backward passes
                  tasks=[4,14,64] shared=[[512,64,2]] heads=16          (width, rows, layers)
  scaling         the same against the number of tasks, the batch and the parameters; `plot` draws its files
                  tasks=[2,4,8,14] batches=[64,128,256] sizes=[16,32,64] at=14
  memory          peak memory above a uniform step of both kinds of train.memory, and what low costs in time
                  tasks=[4,14,64] seconds=60
  peers           MGDA, UPGrad, PCGrad, MetaWeighting and Frank-Wolfe beside torchjd, autograd and scipy
                  tasks=[2,4,14,64] shared=[[512,64,2]] heads=16 problems=5 seconds=30
  lossbank        a LossRAG run beside a MetaWeighting run; measuring a library by its size
                  tasks=4 sizes=[32,64] run_losses=32 every=[2,8] rows=512 steps=96
     all of these: batch=512 length=150 vectors=50 filters=64 words=30000 trainable=false device=cpu threads=1 pairs=9
  bank            a question to a bank of outcomes, and how many of the nearest cases it finds
                  sizes=[10000,100000,1000000] questions=200 losses=32 near=15 threads=1
  loops           what becomes of absent tasks, NaN, scalers and the like, beside torchjd (docs/own-loop.md)
                  processes=true threads=1
  textcnn         a TextCNN step beside PyTorch's dense convolution and pooling
                  sizes=[[50,64],[300,100]] batch=256 length=150 words=30000 pairs=9 threads=1
  frank_wolfe     the min-norm solver beside torchjd's at the same gap; many problems at once beside a loop
                  tasks=[2,14,64] batch_tasks=[2,14] max_iterations=20000
                  problems=3 pairs=9 batch=1000 gap=1e-6 threads=1
  bert            peak memory and seconds of a step that fine-tunes a pre-trained encoder (extra bert)
                  encoder=minilm batch=32 length=128 tasks=[4,14] steps=2 low=false threads=1
  runs            whole runs with some options beside the same runs without, by the processor time of both
                  experiments=[digits] options=[loss.policy=retrieval] beside=[loss.policy=fixed] both=[] pairs=3
                  seed=90 threads=1
  devices         a model, nothing is timed: a step of BERT-base over several devices (docs/devices.md)
                  tasks=[4,14,64] devices=[2,8,64] parameters=109.5e6 body=85.1e6 rows=512 length=128
""",
    "bank": """\
lossrag bank COMMAND

The losses of the library, and what a bank remembers: outcomes of whole trainings with them (docs/losses.md).
bank=builtin is the one that comes with the package.

  list [bank=FILE]                     every loss; with a bank how often it was tried, and what it gained
  show LOSS [bank=FILE]                formula, reference, needs, shape in words, gradient curve, gains by trouble
       [output=loss.png]               the gradient curve as a picture
  neighbours LOSS [k=5]                the losses of the most similar shape
  query [bank=FILE] KEY=VALUE ...      which losses a described task would get, and why:
       kind=classification classes=4 disagreement=0.4 sure_and_wrong=0.2 balance_rarest=0.05 encoder=textcnn
       what is not said is as in the bank on average; progress=0.05   k=8
  query run=RUN_DIR task=TASK          what a run was told about a task; step=0: before its first step
  picture [bank=builtin] [run=RUN_DIR] what a bank knows in the plane, with a run's tasks
       [at=0.05] [output=bank.png]     when the cases are looked at, the file
  add run=DIR reference=DIR bank=FILE  the trials of a finished run, beside one whose tasks had their reference losses
       [trouble=symmetric] [clean=true]     where you know; the reference has to have recorded its contexts
  merge FILE FILE output=FILE          the cases of both, what both have once
  check FILE                           what to know about a bank, damage included; exit code 1 if there is something
  export bank=FILE output=trials.csv   a line a trial
  validate [bank=builtin]              what its choices gain on sources that it has never seen
       [at=0.05] [moments=[0.02,0.15]]      asked after so much of the steps, and the curve of it
       [neighbours=20] [k=8]           cases that answer, candidates of the rows "best of k"
       [output=validation.json]        all figures: by source, encoder and trouble, with intervals
  collect PLAN [parts=[PART]]          trials in the large, from the trainings of a plan: builtin is what ships
       [root=runs/collect]             its shards are not made again
       [processes=2] [launcher=local]  side by side, here or on a cluster

  library=[my_losses.py]               with any of them: your own losses, too

  lossrag bank show mae output=mae.png
  lossrag bank query classes=4 disagreement=0.4 sure_and_wrong=0.2
  lossrag bank query run=runs/RUN task=TASK
""",
    "ablate": """\
lossrag ablate NAME [seeds=[0,1]] [rows=[ROW,ROW]] [processes=2] [root=runs/ablation]

Settings side by side over the same seeds. Runs that are finished are not repeated, half ones resume.

  smoke                                a minute on the digits: does everything run?
  clean, noise, imbalance, mixed       composed losses beside cross-entropy on such data (docs/losses.md)
  mixed_sentiment, mixed_digits,       mixed troubles in small, on other corpora and encoders
  mixed_bert
  digits                               the defaults on clean digits
  outer_every                          the outer problem in every m-th step alone

  ./mine.yaml                          a plan of your own, in place of the name (docs/compare.md)

  library=[my.py]                      files of yours that its runs need
  rows=[ROW,ROW]                       some of its settings
  processes=2                          runs side by side, each with one thread
  launcher=local | submitit | ray      here, on Slurm, on a Ray cluster; launcher.cores, gpus, memory of a run;
                                       launcher.dry_run=true shows what would be submitted (docs/many-runs.md)

  lossrag ablate mixed seeds=[0,1,2]
""",
    "compare": """\
lossrag compare experiment=NAME [key=value ...]

Weighting methods by suites by seeds: every method gets the same number of tuning runs, judged on validation, and runs
with every seed at the setting that they chose. The same command goes on after an interruption; finished runs stay.

  experiment=smoke                     three methods on the digits, under a minute
  experiment=every_method              does every method run? one tiny run of each on both corpora, not tuned
  experiment=topic_small               nine methods on four topic tasks, three seeds: within the hour on two cores
  experiment=sentiment_small           the same nine on the 14 sentiment tasks
  experiment=paper                     the paper's length on both corpora, for larger machines
  experiment=paper_bert                the same with BERT-base, for GPUs
  experiment=./mine.yaml               a plan of your own (docs/compare.md)
  library=[my.py]                      files of yours that register methods, suites, losses ...

  methods=[uniform,metaweighting]      some of the plan's methods; the one that others are compared with always stays
  seeds=[0,1,2]                        other seeds than the plan's
  tune=false                           no tuning: every method with the preset's own values
  processes=2                          runs side by side, each with one thread
  launcher=local | submitit | ray      here, on Slurm, on a Ray cluster; launcher.cores, gpus, memory of a run;
                                       launcher.dry_run=true shows what would be submitted (docs/many-runs.md)
  root=runs/compare                    where runs and tables go, in a folder of the plan's name

  lossrag compare experiment=topic_small methods=[metaweighting,dwa] seeds=[0,1]

Tables: NAME/table.md, table.tex, compare.json, runs.csv, tuning.csv (every setting tried), seconds.csv.
""",
    "sweep": """\
lossrag sweep key=KEY values=[A,B] [seeds=[0,1,2]] [launcher=local] [root=runs/sweep] [key=value ...]

`lossrag train` for every value and seed; what else is said goes to every run. Finished runs are not repeated, half
ones resume.

  lossrag sweep experiment=topic_quick key=tasks.rho values=[0.01,0.05,0.1,0.2,0.3,0.4] seeds=[0,1,2]
  lossrag sweep experiment=topic_quick key=weighting.alpha values=[0.005,0.02,0.1] seeds=[0,1,2]
  lossrag sweep experiment=./mine.yaml library=[my.py] key=optimizer.lr values=[0.001,0.01]
  lossrag figures root=runs/sweep only=[rho,alpha]
""",
    "figures": """\
lossrag figures root=FOLDER [output=figures] [only=[accuracy,weights]] [epochs=[1,2]]
lossrag figures runs=[DIR,DIR]

Draw the paper's figures from finished runs, as PNG (300 dpi) and PDF.

  gaps        1, 6, 7       support, query and test loss per task under uniform weights
  accuracy    2, 3, 10, 11  every method on every task, all runs
  rho         4             accuracy against the query-split ratio, MetaWeighting
  alpha       5             accuracy against the step size of the weights, MetaWeighting
  weights     8, 9, 12      how the task weights move, a panel per method

  epochs=[500,1000,1500]    which ones gaps shows; default: a third, two thirds, the end

  lossrag figures root=runs/compare/topic_small only=[accuracy,weights]
""",
    "report": """\
lossrag report RUN_DIR ... | root=FOLDER [output=report.html]

Finished runs as one HTML file that needs no network (docs/report.md): means with 95 % intervals over seeds, scores of
every task, curves, compositions and why they changed, confusion matrices or residuals, settings that differ, commands.

  runs/ONE runs/TWO                    these runs; those that differ in their seed alone are a row
  root=runs                            all that are below a folder; of `lossrag compare` with the names of its plan
  output=report.html                   a file that is there is replaced

  lossrag report root=runs/compare/smoke output=smoke.html
""",
    "predict": """\
lossrag predict run=DIR data=FILE [output=predictions.csv] [device=auto] [threads=1]

What a finished run says about new rows: a line a row, for every task the class and its probability, or the value in the
units of the data. The run's directory is all that is needed (docs/predict.md); nothing in it is executed.

  data=new.csv                         .csv, .tsv, .jsonl or .parquet with the input columns of training, found by name;
                                       a .npy file for a run that was trained on one
  output=out.jsonl                     .csv, .tsv or .jsonl
  'delimiter=";"' encoding=latin-1     of data that differ from those of training
  encoder=FOLDER root=FOLDER           where the pre-trained encoder of the run lies now, and the data folder
  library=[my.py]                      files of yours that registered the run's encoder

  lossrag predict run=runs/RUN data=new.csv output=out.csv
""",
    "evaluate": """\
lossrag evaluate run=DIR data=FILE [output=scores.json] [vectors=FILE.npy] [device=auto] [threads=1]

Scores of a finished run on other rows, each in the metric of its task. The rows of its test split give its own scores.

  data=labelled.csv                    a table as for `lossrag predict`, with the columns of the targets; tasks without
                                       one are left out, rows without a label count for nothing
  vectors=FILE.npy                     the inputs of its rows, of a run that was trained on such a file
  delimiter  encoding  encoder  root  library            as for `lossrag predict`

  lossrag evaluate run=runs/RUN data=labelled.csv output=scores.json
""",
    "export": """\
lossrag export run=DIR [format=safetensors] [output=FILE]

The model of a finished run for other programs, with what its inputs are made by and what its outputs mean
(docs/predict.md).

  format=safetensors                   the parameters, and as metadata two JSON texts, description and preprocessing
  format=torch_export                  a program of torch.export, from inputs to probabilities and values; any number of
                                       rows. torch.export.load reads it
  format=onnx                          the same for ONNX runtimes, outputs by the names of the tasks (extra onnx)
  encoder  root  library               as for `lossrag predict`

  lossrag export run=runs/RUN format=torch_export output=model.pt2
""",
    "check": """\
lossrag check PATH ... | root=FOLDER [repair=true]

Which files are as they were written (docs/reliability.md): of run directories, banks, cached suites and the tables of
studies. Exit code 1 where anything is damaged or missing.

  root=runs                            everything below a folder
  repair=true                          rebuild what can be: summary, model.json and pictures from the last checkpoint,
                                       TensorBoard's curves from metrics.jsonl; what was damaged goes to DIR/damaged

  library=[my.py]                      files of yours that the runs to be rebuilt were trained with

  sha256sum -c SHA256SUMS              the same check of a finished run without LossRAG
""",
    "theory": """\
lossrag theory run=DIR [loss=one_minus_p] [delta=0.05] [draws=2] [epochs=10] [library=[my.py]]

Theorems 1 to 3 of the paper on a finished run, with a loss in [0, 1]; numbers go to DIR/theory.json.
For each of the draws a fresh model of the run's class is trained on random signs for so many epochs.

  loss=one_minus_p | zero_one          the loss in [0, 1]
  delta=0.05                           how often a bound may fail
  draws=2 epochs=10                    of the random signs

  lossrag theory run=runs/RUN loss=zero_one
""",
}
