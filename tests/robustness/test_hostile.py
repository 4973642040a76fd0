"""A stranger's run folder is data: nothing in it is executed, written elsewhere, or takes more memory than it has."""

import io
import json
import pickle
import resource
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segtrain.cli import run_command
from segtrain.commands import export, predict, repeat, resume
from segtrain.errors import ConfigError, SegtrainError
from segtrain.runs import trained as runs

TARGETS = [
    "os.system",
    "subprocess.check_output",
    "builtins.eval",
    "builtins.exec",
    "builtins.open",
    "torch.load",
    "torch.hub.load",
    "torch.nn.modules.module.torch.load",
    "torch.nn.modules.module.torch.hub.load",
    "torch.utils.model_zoo.load_url",
    "albumentations.load",
    "albumentations.save",
    "albumentations.from_dict",
    "segmentation_models_pytorch.from_pretrained",
    "segmentation_models_pytorch.Unet.from_pretrained",
    "segtrain.losses.loss.torch.load",
    "segtrain.files.write_text",
    "segtrain.commands.compare.main",
    "segtrain.cli.os.system",
    "hydra.utils.instantiate",
    "hydra.utils.get_method",
    "pickle.loads",
    "numpy.load",
    "importlib.import_module",
    "webbrowser.open",
    "yaml.unsafe_load",
    "shutil.rmtree",
    "segtrain.config.build.build",
]


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def target(name: str, node: str):
    def change(run: Path, canary: Path) -> None:
        import yaml

        config = yaml.safe_load((run / "config.yaml").read_text())
        if node == "teacher":
            config["labels"] = {"_target_": "segtrain.labels.Teacher", "teacher": {"_target_": name, "f": str(canary)}}
        elif node == "list":
            config["loss"] = {"_target_": "segtrain.losses.Phased", "losses": [{"_target_": name}], "starts": [0]}
        else:
            config[node] = {"_target_": name, "_args_": [f"touch {canary}"]}
        (run / "config.yaml").write_text(yaml.safe_dump(config))

    return change


def config(text: str):
    return lambda run, canary: (run / "config.yaml").write_text(text.replace("CANARY", str(canary)))


def checkpoint(content):
    def change(run: Path, canary: Path) -> None:
        for name in ("best.pt", "last.pt"):
            torch.save(content(canary), run / "checkpoints" / name)

    return change


def claiming_100_gb(run: Path, canary: Path) -> None:
    """A tensor of 10 numbers that says it has 25 billion."""
    for name in ("best.pt", "last.pt"):
        file, stream = run / "checkpoints" / name, io.BytesIO()
        torch.save({"model": {"w": torch.zeros(10)}, "run": {}}, stream)
        with zipfile.ZipFile(stream) as old, zipfile.ZipFile(file, "w") as new:
            for record in old.infolist():
                data = old.read(record)
                if record.filename.endswith("data.pkl"):
                    data = data.replace(b"K\n", b"\x8a\x05" + (25 * 10**9).to_bytes(5, "little"))
                new.writestr(record.filename, data)


def compressed(run: Path, canary: Path) -> None:
    for name in ("best.pt", "last.pt"):
        with zipfile.ZipFile(run / "checkpoints" / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x/data.pkl", b"\0" * 2**28)


def arrays(shape: str):
    def change(run: Path, canary: Path) -> None:
        header = b"\x93NUMPY\x01\x00v\x00" + f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}}}".encode()
        with zipfile.ZipFile(run / "per_image.npz", "w") as archive:
            archive.writestr("tp.npy", header.ljust(127) + b"\n" + b"\0" * 64)

    return change


def pickled_arrays(run: Path, canary: Path) -> None:
    stream = io.BytesIO()
    np.savez(stream, tp=np.array([Evil(canary)], dtype=object))
    (run / "per_image.npz").write_bytes(stream.getvalue())


def written(name: str, text: str):
    return lambda run, canary: (run / name).write_text(text.replace("CANARY", str(canary)))


def link(name: str):
    def change(run: Path, canary: Path) -> None:
        entry, elsewhere = run / name, canary.parent / "elsewhere"
        if entry.is_dir():
            shutil.move(entry, elsewhere)
        else:
            entry.unlink(missing_ok=True)
            elsewhere.mkdir()
        entry.symlink_to(elsewhere)

    return change


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
KINDS = {
    **{f"{name} as {node}": target(name, node) for name in TARGETS for node in ("augment", "teacher")},
    **{f"os.system as {node}": target("os.system", node) for node in ("loss", "model", "dataset", "metric", "list")},
    "a YAML tag": config("a: !!python/object/apply:os.system ['touch CANARY']\n"),
    "a YAML tag of an object": config("!!python/object/new:os.system ['touch CANARY']\n"),
    "an interpolation": config("seed: ${oc.env:HOME}\n"),
    "an escaped interpolation": config('seed: "\\x24{oc.env:HOME}"\n'),
    "a resolver": config('model: "\\x24{oc.create:{_target_: torch.hub.load}}"\n'),
    "aliases that multiply": config(BOMB),
    "a deep YAML": config("a: " + "[" * 5000),
    "a large YAML": config("a: " + "x" * 2**21),
    "a pickle in the checkpoint": checkpoint(lambda canary: {"model": Evil(canary), "run": {}}),
    "a checkpoint that is a list": checkpoint(lambda canary: [1]),
    "a checkpoint without weights": checkpoint(lambda canary: {"run": {"rows": 1, "result": {}, "config": ""}}),
    "a checkpoint that claims 100 GB": claiming_100_gb,
    "a compressed checkpoint": compressed,
    "an old checkpoint": lambda run, canary: [
        (run / "checkpoints" / name).write_bytes(pickle.dumps(Evil(canary))) for name in ("best.pt", "last.pt")
    ],
    "pickled arrays": pickled_arrays,
    "arrays that claim terabytes": arrays("(1000000000000,)"),
    "arrays of overflowing size": arrays("(4294967296, 4294967296)"),
    "a deep JSON": written("result.json", "[" * 10**5),
    "a JSON list": written("result.json", "[1]"),
    "a JSON with other types": written("result.json", '{"status": "preempted", "best": 3, "per_class": 5}'),
    "changed settings that interpolate": written(
        "environment.json", '{"resumes": [{"changed": {"seed": "${oc.env:HOME}"}}]}'
    ),
    "changed settings that name a class": written(
        "environment.json", '{"resumes": [{"changed": {"loss._target_": "os.system"}}]}'
    ),
    "changed settings that are none": written("environment.json", '{"resumes": [3]}'),
    **{f"{name} is a link": link(name) for name in ("checkpoints", "evaluation", "segtrain.log", ".hydra", "plots")},
}


def predict_one_image(run: Path) -> None:
    Image.new("RGB", (32, 32)).save(run.parent / "image.png")
    shutil.rmtree(run.parent / "predicted", ignore_errors=True)
    run_command("predict", [str(run), str(run.parent / "image.png"), "--out", str(run.parent / "predicted")])


COMMANDS = {
    "predict": predict_one_image,
    "export": lambda run: run_command("export", [str(run), "--format", "torch_export"]),
    "resume": lambda run: run_command("resume", [str(run)]),
    "evaluate": lambda run: run_command("evaluate", [str(run), "--bootstrap", "0"]),
    "repeat": lambda run: run_command("repeat", [str(run)]),
    "compare": lambda run: run_command("compare", [str(run)]),
    "teacher": lambda run: runs.load(str(run)),
}
# What each command reads, and so must refuse; elsewhere it is enough that nothing is executed.
READ = {
    "predict": ("config", "checkpoint", "result", "link"),
    "export": ("config", "checkpoint", "result", "link"),
    "resume": ("config", "checkpoint", "arrays", "result", "settings", "link"),
    "evaluate": ("config", "checkpoint", "result", "link"),
    "teacher": ("config", "checkpoint", "result", "link"),
    "repeat": ("config", "checkpoint", "result", "settings"),
    "compare": ("yaml", "result"),
}


def subject(kind: str) -> str:
    """Which file a kind is about."""
    if " as " in kind or "interpolation" in kind or "resolver" in kind:
        return "config"
    words = {
        "YAML": "yaml",
        "alias": "yaml",
        "JSON": "result",
        "changed": "settings",
        "arrays": "arrays",
        "link": "link",
    }
    return next((found for word, found in words.items() if word in kind), "checkpoint")


def must_be_refused(kind: str, command: str) -> bool:
    about = subject(kind)
    return about in READ[command] or (about == "yaml" and "config" in READ[command])


def attacked(trained: Path, tmp_path: Path, kind: str, command: str) -> str:
    """What happened: refused, done, slow, or executed."""
    run, canary = tmp_path / "run", tmp_path / "canary"
    shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(trained, run)
    status = "finished" if command == "repeat" else "preempted"
    content = json.loads((run / "result.json").read_text()) | {"status": status}
    content.pop("checksum")
    (run / "result.json").write_text(json.dumps(content))
    KINDS[kind](run, canary)
    started = time.process_time()  # not the clock's: other tests run beside this one
    try:
        COMMANDS[command](run)
        outcome = "done"
    except SegtrainError as error:
        outcome = "refused" if str(run) in str(error) or isinstance(error, ConfigError) else f"refused: {error}"
    except SystemExit:
        outcome = "done"
    if canary.exists():
        return "executed"
    return f"slow, {outcome}" if outcome == "refused" and time.process_time() - started > 2 else outcome


@pytest.fixture(autouse=True)
def _quiet(monkeypatch, tmp_path):
    monkeypatch.setattr(resume, "log_to_screen", lambda *_: None)
    monkeypatch.setattr(repeat, "log_to_screen", lambda *_: None)
    monkeypatch.setattr(predict, "log_to_screen", lambda *_: None)
    monkeypatch.setattr(export, "log_to_screen", lambda *_: None)
    monkeypatch.setenv("SEGTRAIN_CACHE", str(tmp_path / "cache"))


def outcomes(trained: Path, tmp_path: Path, command: str, kinds: list[str]) -> dict[str, str]:
    """By kind, what should not have happened."""
    found = {kind: attacked(trained, tmp_path, kind, command) for kind in kinds}
    good = {kind: ["refused"] if must_be_refused(kind, command) else ["refused", "done"] for kind in kinds}
    return {kind: outcome for kind, outcome in found.items() if outcome not in good[kind]}


def test_hostile_folders_are_refused(trained, tmp_path):
    kinds = [kind for kind in KINDS if "os.system" in kind or " as " not in kind]
    assert outcomes(trained, tmp_path, "resume", kinds) == {}
    assert outcomes(trained, tmp_path, "predict", kinds) == {}
    assert outcomes(trained, tmp_path, "export", [kind for kind in kinds if must_be_refused(kind, "export")]) == {}


@pytest.mark.long
def test_hostile_folders_of_every_kind_for_every_command(trained, tmp_path, figure):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {command: outcomes(trained, tmp_path, command, list(KINDS)) for command in COMMANDS}
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    executed = sum("executed" in outcome for each in found.values() for outcome in each.values())
    figure(
        f"hostile folders of {len(KINDS)} kinds, {len(COMMANDS)} commands",
        f"{executed} executed, {sum(map(len, found.values()))} not refused within 2 s, {grown:.1f} GB of memory more",
    )
    assert found == {command: {} for command in COMMANDS}
    assert grown < 1
