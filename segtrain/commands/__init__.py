"""What the words after `segtrain` do: one file each. Read train.py first."""

# Each command with its line in `segtrain help`.
COMMANDS = {
    "check": "check FOLDER [key=value …]        read every file of a dataset and list what is wrong with it",
    "weights": "weights key=value …               count the classes in the masks; print every weighting side by side",
    "find": "find key=value … --hours H        which loss, weighting and sampling to train with, within a time budget",
    "lr-find": "lr-find key=value …               suggest a learning rate for these settings, within two minutes",
    "evaluate": "evaluate RUN [key=value …]        score a finished run on its validation images again",
    "predict": "predict RUN IMAGE … --out DIR     write masks, overlays and a table for images without ground truth",
    "export": "export RUN [--format onnx]        write the network as a file that runs in onnxruntime or PyTorch",
    "resume": "resume RUN_OR_SWEEP               continue a run in its own folder, or the missing runs of a sweep",
    "repeat": "repeat RUN                        train again with a run's settings, and say whether the result is equal",
    "compare": "compare RUN_OR_SWEEP …            compare the settings of runs by their scores, best first",
}
