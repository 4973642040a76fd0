"""Speed and memory as ratios, measured side by side in one run. `python scripts/benchmark.py [PART …] [--out FILE]`

Parts:
    losses   forward + backward of each loss against torch.nn.functional.cross_entropy, and peers, on four shapes
    data     class count and `segtrain check` against decoding the same files, smallest objects against OpenCV, the loader
             against bare albumentations
    metrics  decisions, counts and scores against torch and torchmetrics, and all scores against a forward pass
    many     the class count of up to 100,000 masks: time and memory
    trainer  whole epochs with validation against a loop by hand, and Lightning with SMP's Dice and torchmetrics if installed
    precision  steps of U-Nets on the CPU in bfloat16, with segtrain's autocast and PyTorch's, against float32
    compare  `segtrain compare --out` of 1,000 run folders: seconds and memory
    predict  images per second of `segtrain predict` against the network alone, on the same images in memory
    cuda     on a GPU: CE + Dice against F.cross_entropy, the share of loss and scores in a step of a U-Net, and whether the
             host waits for the device in a step; not among the parts that run by default
    startup  a config error and --help against `python -c "import hydra"`

The process keeps its freed memory, as the console script does. Prints a table a part and writes all numbers as JSON.
Ratios are medians of interleaved repeats: both sides see the same machine at the same time.
"""

import argparse
import copy
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from queue import Queue
from threading import Thread

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from segtrain import losses
from segtrain.cpu import keep_memory
from segtrain.files import write_arrays, write_json
from segtrain.labels import Smooth
from segtrain.report.text import table

SHAPES = {"a": (8, 4, 256, 256), "b": (4, 11, 360, 480), "c": (2, 19, 512, 1024), "d": (2, 150, 512, 512)}


def interleaved(functions: dict, repeats: int, seconds: float = 20) -> dict[str, float]:
    """Median seconds of each function; they take turns, for at most about `seconds` in all."""
    times = {name: [] for name in functions}
    started = time.perf_counter()
    for turn in range(repeats + 1):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            if turn:  # the first turn warms up
                times[name].append(time.perf_counter() - begin)
        if turn and time.perf_counter() - started > seconds:
            break
    return {name: statistics.median(t) for name, t in times.items()}


def ours() -> dict:
    ce = losses.CrossEntropy
    found = {
        "ce": ce(),
        "dice": losses.Dice(),
        "dice image": losses.Dice(aggregate="image"),
        "jaccard class": losses.Jaccard(aggregate="class"),
        "ce + dice": losses.PixelRegion(ce(), losses.Dice()),
        "focal": losses.Focal(),
        "lovasz": losses.Lovasz(),
        "lovasz, tolerance 1e-3": losses.Lovasz(tolerance=1e-3),
    }
    soft = {f"{name}, soft labels": OnSoftLabels(found[name]) for name in ("dice", "ce + dice")}
    return found | soft


class OnSoftLabels:
    """A loss on the smoothed labels of a target, which are made before the clock starts."""

    def __init__(self, loss):
        self.loss, self.soft = loss, None

    def __call__(self, logits, target):
        if self.soft is None or self.soft.shape != logits.shape:
            self.soft = Smooth(num_classes=logits.shape[1]).target(target)
        return self.loss(logits, self.soft)


def peers() -> dict:
    """Losses of segmentation-models-pytorch and MONAI, on hard labels."""
    import segmentation_models_pytorch as smp
    from monai.losses import DiceCELoss, DiceLoss, FocalLoss

    smp_dice, smp_ce = smp.losses.DiceLoss("multiclass"), smp.losses.SoftCrossEntropyLoss(smooth_factor=0.0)
    smp_focal = smp.losses.FocalLoss("multiclass")
    monai_dice = DiceLoss(softmax=True, to_onehot_y=True, batch=True)
    monai_both = DiceCELoss(softmax=True, to_onehot_y=True, batch=True)
    monai_focal = FocalLoss(use_softmax=True, to_onehot_y=True)
    return {
        "smp dice": smp_dice,
        "smp ce + dice": lambda z, y: smp_ce(z, y) + smp_dice(z, y),
        "smp focal": smp_focal,
        "monai dice": lambda z, y: monai_dice(z, y[:, None]),
        "monai ce + dice": lambda z, y: monai_both(z, y[:, None]),
        "monai focal": lambda z, y: monai_focal(z, y[:, None]),
    }


def step(loss, logits, target):
    logits.grad = None
    loss(logits, target).backward()


def benchmark_losses(names: list[str], with_peers: bool) -> list[dict]:
    rows = []
    for shape_name in names:
        n, c, h, w = shape = SHAPES[shape_name]
        logits = torch.randn(shape, requires_grad=True)
        target = torch.randint(0, c, (n, h, w))
        candidates = {"F.cross_entropy": F.cross_entropy} | ours() | (peers() if with_peers else {})
        if shape_name == "d":  # minutes a step, or out of memory
            candidates = {k: v for k, v in candidates.items() if k not in ("smp focal", "monai focal")}
        base = None
        for name, loss in candidates.items():
            pair = {"base": lambda: step(F.cross_entropy, logits, target)}  # noqa: B023
            pair["loss"] = lambda: step(loss, logits, target)  # noqa: B023
            seconds = interleaved(pair, repeats=7, seconds=12)
            memory = peak_memory(shape_name, name) if sys.platform == "linux" else None
            base = base or seconds["base"]
            rows.append(
                {
                    "shape": f"{shape_name} {n}×{c}×{h}×{w}",
                    "loss": name,
                    "milliseconds": 1000 * seconds["loss"],
                    "time ratio": seconds["loss"] / seconds["base"],
                    "memory ratio": memory,
                }
            )
    return rows


def peak_memory(shape_name: str, name: str) -> float:
    """Peak extra memory of a forward and backward, as a multiple of the logits, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", shape_name, name], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def measure_memory(shape_name: str, name: str) -> float:
    n, c, h, w = shape = SHAPES[shape_name]
    everything = {"F.cross_entropy": F.cross_entropy} | ours()
    loss = everything[name] if name in everything else peers()[name]
    small = torch.randn(1, c, 8, 8, requires_grad=True)
    step(loss, small, torch.randint(0, c, (1, 8, 8)))  # what is loaded once is not the loss's memory
    logits, target = torch.randn(shape, requires_grad=True), torch.randint(0, c, (n, h, w))
    if isinstance(loss, OnSoftLabels):
        loss.soft = Smooth(num_classes=c).target(target)
    logits.grad = None
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = peak_kilobytes()
    step(loss, logits, target)
    return (peak_kilobytes() - before) * 1024 / (logits.numel() * 4)


def peak_kilobytes() -> int:
    """Peak resident memory of this process, Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def benchmark_data(root: str | None) -> list[dict]:
    """Count, check and loader on a folder dataset (root/train/…), or on 367 generated images of CamVid's size."""
    from segtrain.class_counts import count_classes
    from segtrain.data.folder import Folder
    from segtrain.dataset_check.findings import check_dataset

    with tempfile.TemporaryDirectory() as scratch:
        root = root or generated_dataset(Path(scratch), 367)
        values = count_classes(Folder(root, "train", num_classes=255)).pixels
        dataset = Folder(root, "train", num_classes=int(np.flatnonzero(values)[-1]) + 1)
        masks, threads = [mask for (mask,) in dataset.masks], len(os.sched_getaffinity(0))

        def decode(file: Path) -> None:
            with Image.open(file) as image:
                image.load()

        def decode_all(files) -> None:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(decode, files))

        def unique_all() -> None:
            for file in masks:
                np.unique(np.asarray(Image.open(file)), return_counts=True)

        masks_only = copy.copy(dataset)
        masks_only.check_pair = lambda index: None
        cache = Path(scratch) / "cache"
        count_classes(dataset, cache=cache)

        def count_anew() -> None:
            with tempfile.TemporaryDirectory() as empty:
                count_classes(dataset, cache=Path(empty))

        counts = {
            "decode the masks": lambda: decode_all(masks),
            "count": lambda: count_classes(masks_only),
            "count and check sizes": lambda: count_classes(dataset),
            "PIL + np.unique": unique_all,
        }
        runs = {"first count": count_anew, "second count": lambda: count_classes(dataset, cache=cache)}
        checks = {
            "decode images and masks": lambda: decode_all([*dataset.images, *masks]),
            "segtrain check": lambda: check_dataset({"train": dataset}, None),
        }
        rows = [row for functions in (counts, runs, checks) for row in in_ratio(functions, len(masks))]
        return rows + objects_rows() + loader_rows(dataset)


def in_ratio(functions: dict, images: int) -> list[dict]:
    """A row for each; the first is what the others are compared with."""
    seconds = interleaved(functions, repeats=7)
    base = next(iter(seconds.values()))
    return [{"part": n, "microseconds an image": 1e6 * s / images, "ratio": s / base} for n, s in seconds.items()]


def objects_rows() -> list[dict]:
    """The smallest objects of masks of smooth regions, of 11 classes, against OpenCV's components of each class."""
    import cv2

    from segtrain.dataset_check.smallest_objects import least_areas

    masks = blobs((8, 11, 352, 480))[1].numpy()
    every = np.arange(11) >= 0

    def by_opencv() -> None:
        for mask in masks:
            for label in range(11):
                cv2.connectedComponentsWithStats(cv2.inRange(mask, label, label), connectivity=8)

    functions = {"components by OpenCV": by_opencv}
    functions["smallest objects"] = lambda: [least_areas(mask, every) for mask in masks]
    return in_ratio(functions, len(masks))


def loader_rows(dataset) -> list[dict]:
    """Batches from memory, by one core, against the bare albumentations call on the same arrays."""
    import albumentations as A
    import cv2

    from segtrain.class_counts import count_classes
    from segtrain.data.augment import Augment
    from segtrain.data.loader import Loader
    from segtrain.data.sampling import Uniform

    size = [min(360, dataset.size(0)[0]), min(480, dataset.size(0)[1])]
    light = {"horizontal_flip": 0.5, "brightness": 0.1, "contrast": 0.1}
    loader = Loader(batch_size=8, workers=0, cache="ram", min_images=1)
    batches = loader.train(dataset, Augment(size=size, **light), Uniform(), count_classes(dataset), 0)
    samples = [(dataset.image(i), dataset.mask(i)) for i in range(len(dataset.names))]
    crop = [A.PadIfNeeded(*size, border_mode=0), A.RandomCrop(*size), A.HorizontalFlip(p=0.5)]
    jitter = A.ColorJitter((0.9, 1.1), (0.9, 1.1), (1, 1), (0, 0), p=0.8)
    pipelines = {
        "albumentations, crop flip brightness": A.Compose([*crop, A.RandomBrightnessContrast(0.1, 0.1, p=0.8)]),
        "albumentations, crop flip ColorJitter": A.Compose([*crop, jitter]),
    }

    def bare(pipeline):
        return lambda: deque((pipeline(image=image, mask=mask) for image, mask in samples), maxlen=1)

    functions = {name: bare(pipeline) for name, pipeline in pipelines.items()}
    functions["segtrain batches, cache=ram, one process"] = lambda: deque(batches.epoch(0), maxlen=1)
    threads = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)  # what one core does
    torch.set_num_threads(1)
    rows = in_ratio(functions, len(samples))
    cv2.setNumThreads(threads[0])
    torch.set_num_threads(threads[1])
    return rows


def blobs(shape, seed: int = 0):
    """Logits with regions, as a network gives them, and labels that mostly follow them; a band is ignored."""
    n, c, h, w = shape
    coarse = torch.randn(n, c, h // 32, w // 32, generator=torch.Generator().manual_seed(seed))
    logits = F.interpolate(coarse, size=(h, w), mode="bicubic") * 3
    noise = torch.randn(coarse.shape, generator=torch.Generator().manual_seed(seed + 1)) / 3
    target = F.interpolate(coarse + noise, size=(h, w), mode="bicubic").argmax(dim=1).to(torch.uint8)
    target[:, :9] = 255
    return logits, target


def benchmark_metrics() -> list[dict]:
    """Decision, count, the standard scores of a batch, and all scores against a network's forward pass."""
    from torchmetrics.classification import MulticlassJaccardIndex

    from segtrain import models
    from segtrain.metrics import SegmentationScores, predict
    from segtrain.metrics.confusion import confusion_per_image

    rows = []
    for name in "bcd":
        n, c = SHAPES[name][:2]
        logits, target = blobs(SHAPES[name])
        last, predicted = logits.contiguous(memory_format=torch.channels_last), predict(logits, False)
        truth = target.flatten(1).long().masked_fill(target.flatten(1) == 255, c)
        cell = ((torch.arange(n)[:, None] * (c + 1) + truth) * c + predicted.flatten(1)).flatten()
        scores, theirs = SegmentationScores(c), MulticlassJaccardIndex(c, ignore_index=255)
        wide = predicted.long(), target.long()

        def ours() -> None:
            scores.reset()  # noqa: B023
            scores.update(predicted, target)  # noqa: B023

        pairs = {
            "decision / logits.max(1)": (lambda: predict(logits, False), lambda: logits.max(1)),  # noqa: B023
            "decision, channels last / logits.max(1)": (lambda: predict(last, False), lambda: last.max(1)),  # noqa: B023
            "count / int64 torch.bincount": (
                lambda: confusion_per_image(predicted, target, c, 255),  # noqa: B023
                lambda: torch.bincount(cell, minlength=n * (c + 1) * c),  # noqa: B023
            ),
            "standard scores / torchmetrics Jaccard": (ours, lambda: theirs.update(*wide)),  # noqa: B023
        }
        rows += [ratio_row(f"{name} {part}", *pair) for part, pair in pairs.items()]
    every = ["fine_grained", "presence", "foreground", "objects", "boundary", "calibration"]
    for c in (2, 4, 11, 19):
        model, images = models.unet(num_classes=c).eval(), torch.zeros(2, 3, 512, 512, dtype=torch.uint8)
        logits, target = blobs((2, c, 512, 512))
        logits, scores = logits.contiguous(memory_format=torch.channels_last), SegmentationScores(c, groups=every)

        def score() -> None:
            scores.reset()  # noqa: B023
            scores.update(predict(logits, False), target, logits=logits)  # noqa: B023

        with torch.no_grad():
            row = ratio_row(f"all scores, {c} classes / forward pass, 512²", score, lambda: model(images))  # noqa: B023
        rows.append(row)
    return rows


def ratio_row(part: str, function, base) -> dict:
    seconds = interleaved({"base": base, "ours": function}, repeats=15)
    return {"part": part, "milliseconds": 1000 * seconds["ours"], "ratio": seconds["ours"] / seconds["base"]}


def benchmark_many() -> list[dict]:
    """The count of 1,000 to 100,000 masks: time a mask, and what the memory of the process grew by."""
    from segtrain.class_counts import count_classes
    from segtrain.data.folder import Folder

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for images in (1_000, 10_000, 100_000):
            root = Path(scratch) / str(images)
            generated_dataset(root, images, size=(32, 32), distinct=100)
            dataset = Folder(str(root), "train", num_classes=4)
            before, begin = peak_kilobytes(), time.perf_counter()
            count_classes(dataset)
            seconds = time.perf_counter() - begin
            grown = (peak_kilobytes() - before) / 1024
            rows.append({"masks": images, "microseconds a mask": 1e6 * seconds / images, "MiB more": grown})
    return rows


def generated_dataset(root: Path, images: int, size: tuple[int, int] = (360, 480), distinct: int = 367) -> str:
    """root/train/{images,masks}: noisy shapes; `distinct` different files, the rest links to them."""
    from segtrain.data.shapes import Shapes

    shapes = Shapes("train", list(size), train_images=distinct)
    for part in ("images", "masks"):
        (root / "train" / part).mkdir(parents=True)
    for i in range(images):
        for part in ("images", "masks"):
            file = root / "train" / part / f"{i}.png"
            if i >= distinct:
                os.link(file.with_name(f"{i % distinct}.png"), file)
            elif part == "images":
                Image.fromarray(shapes.image(i)).save(file)
            else:
                noisy = shapes.mask(i) + (np.random.default_rng(i).random(size) < 0.05)
                Image.fromarray(np.minimum(noisy, 3).astype(np.uint8)).save(file)
    return str(root)


def benchmark_trainer() -> list[dict]:
    """Whole epochs with validation, on the same batches and the same U-Net: a loop by hand, segtrain, and Lightning with SMP's
    Dice loss and torchmetrics, where it is installed."""
    rows = []
    for side, images, batch_size in ((64, 128, 8), (256, 16, 4)):
        train, val = (batches_in_memory(split, side, images, batch_size) for split in ("train", "val"))
        loops = {"loop by hand": by_hand(train, val), "segtrain": by_segtrain(train, val)}
        if find_spec("lightning"):
            loops["Lightning, SMP, torchmetrics"] = by_lightning(train, val)
        seconds = interleaved(loops, repeats=9, seconds=100)
        base = seconds["loop by hand"]
        title = f"{images}×{side}², batches of {batch_size}"
        rows += [{"part": f"{title}: {n}", "seconds an epoch": s, "rate": base / s} for n, s in seconds.items()]
    return rows


class batches_in_memory(list):
    """Batches of generated shapes, as the trainer takes them."""

    def __init__(self, split: str, side: int, images: int, batch_size: int):
        from segtrain.data.loader import Loader
        from segtrain.data.shapes import Shapes

        self.dataset = Shapes(split, [side, side], train_images=images, val_images=images)
        super().__init__(Loader(batch_size=batch_size, workers=0).evaluation(self.dataset))
        self.names, self.batch_size = self.dataset.names, batch_size

    def num_images(self, limit=None) -> int:
        return len(self.names)

    def epoch(self, epoch: int, first_batch: int = 0):
        return iter(self)


def unet_and_optimizer():
    from segtrain import models, optimizers

    torch.manual_seed(0)
    model = models.unet(num_classes=4).to(memory_format=torch.channels_last)
    return model, optimizers.adamw(model)


def benchmark_precision() -> list[dict]:
    """Forward, loss, backward and AdamW of a batch of four images of 192×256, 11 classes."""
    from segtrain import models, optimizers
    from segtrain.training.device import autocast

    cpu, rows = torch.device("cpu"), []
    images = torch.randint(0, 256, (4, 3, 192, 256), dtype=torch.uint8)
    target = torch.randint(0, 11, (4, 192, 256))
    for encoder in ("resnet18", "tu-tf_efficientnet_lite0", "mobilenet_v2"):
        model = models.unet(num_classes=11, encoder=encoder, decoder_channels=[128, 64, 48, 32, 16])
        model = model.to(memory_format=torch.channels_last).train()
        optimizer = optimizers.adamw(model)

        def steps(precision, training):
            def run() -> None:
                with autocast(cpu, precision, training):
                    logits = model(images)  # noqa: B023
                F.cross_entropy(logits.float(), target).backward()
                optimizer.step()  # noqa: B023
                optimizer.zero_grad()  # noqa: B023

            return run

        functions = {
            "float32": steps(torch.float32, True),
            "torch.autocast": steps(torch.bfloat16, False),
            "segtrain": steps(torch.bfloat16, True),
        }
        seconds = interleaved(functions, repeats=15)
        rows += [
            {"step": f"{encoder}, {name}", "milliseconds": 1000 * s, "ratio": s / seconds["float32"]}
            for name, s in seconds.items()
        ]
    return rows


def by_hand(train, val):
    """A function that trains an epoch and validates."""
    from segmentation_models_pytorch.losses import DiceLoss

    (model, optimizer), dice = unet_and_optimizer(), DiceLoss("multiclass")

    def run() -> None:
        model.train()
        for images, target, _ in train:
            target = target.long()
            logits = model(images)
            (F.cross_entropy(logits, target) + dice(logits, target)).backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        counts = torch.zeros(16, dtype=torch.long)
        with torch.no_grad():
            for images, target, _ in val:
                target = target.long()
                logits = model(images)
                F.cross_entropy(logits, target) + dice(logits, target)
                counts += torch.bincount((4 * target + logits.argmax(dim=1)).flatten(), minlength=16)

    return run


def by_segtrain(train, val):
    from segtrain import schedules
    from segtrain.metrics import SegmentationScores
    from segtrain.training import Parts, Trainer

    model, optimizer = unet_and_optimizer()
    loss = losses.PixelRegion(losses.CrossEntropy(), losses.Dice())
    parts = Parts(model, loss, optimizer, schedules.constant(optimizer, 10**6), train, val, SegmentationScores(4))
    # The trainer asks for the number of training images as an attribute, of the validation's by a call.
    train.num_images = len(train.names)
    epochs = Trainer(epochs=10**6, device="cpu", ema_decay=None).fit(parts)
    return lambda: next(epochs)


def by_lightning(train, val):
    """A training of an epoch is a call of `fit`; what is set up before its first batch is not counted."""
    import lightning
    from segmentation_models_pytorch.losses import DiceLoss
    from torchmetrics.classification import MulticlassJaccardIndex

    (network, its_optimizer), dice = unet_and_optimizer(), DiceLoss("multiclass")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network, self.jaccard = network, MulticlassJaccardIndex(4)

        def loss(self, batch):
            images, target, _ = batch
            logits, target = self.network(images), target.long()
            return F.cross_entropy(logits, target) + dice(logits, target), logits, target

        def training_step(self, batch, number):
            return self.loss(batch)[0]

        def validation_step(self, batch, number):
            _, logits, target = self.loss(batch)
            self.jaccard.update(logits, target)

        def on_validation_epoch_end(self):
            self.jaccard.compute()
            self.jaccard.reset()

        def configure_optimizers(self):
            return its_optimizer

    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = lightning.Trainer(
        max_epochs=10**6, accelerator="cpu", num_sanity_val_steps=0, **dict.fromkeys(quiet, False)
    )
    done, go = Queue(), Queue()

    class Paced(lightning.Callback):
        def on_train_epoch_start(self, *_):
            done.put(None)
            go.get()

    module = Module()
    trainer.callbacks.append(Paced())
    loaders = [torch.utils.data.DataLoader(list(batches), batch_size=None) for batches in (train, val)]
    Thread(target=trainer.fit, args=(module, *loaders), daemon=True).start()
    done.get()  # ready for its first epoch

    def run() -> None:
        go.put(None)
        done.get()

    return run


def benchmark_predict() -> list[dict]:
    """Images of a usual size and large ones, as PNG and JPEG, of a run with the default network."""
    from segtrain.commands import parsers
    from segtrain.commands.large_images import set_window
    from segtrain.commands.predict import predict_all, prepared
    from segtrain.data.shapes import Shapes
    from segtrain.runs.trained import load

    words = [
        "dataset.train_images=8",
        "dataset.val_images=4",
        "trainer.epochs=1",
        "loader.min_images=1",
        "loader.workers=0",
    ]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        script = str(Path(sys.executable).with_name("segtrain"))
        subprocess.run([script, *words, f"hydra.run.dir={folder}/run"], check=True, capture_output=True)
        for suffix, size, number in (("png", (360, 480), 16), ("jpg", (1080, 1920), 3)):
            shapes = Shapes("val", list(size), val_images=number)
            files = {name: Path(folder) / f"{name}.{suffix}" for name in shapes.names}
            for index, file in enumerate(files.values()):
                Image.fromarray(shapes.image(index)).save(file)
            trained = load(f"{folder}/run")
            predictor = prepared(trained)
            images = [torch.from_numpy(shapes.image(i)).permute(2, 0, 1)[None].contiguous() for i in range(number)]
            set_window(predictor, trained, shapes.image(0))
            turns = itertools.count()

            def bare() -> None:
                for image in images:  # noqa: B023
                    predictor.logits(image)  # noqa: B023
                if predictor.device.type == "cuda":  # noqa: B023
                    torch.cuda.synchronize()

            def predict() -> None:
                arguments = parsers.predict([f"{folder}/run", "-", "--out", f"{folder}/{next(turns)}"])  # noqa: B023
                predict_all(arguments, trained, predictor, files, {}, set())  # noqa: B023

            seconds = interleaved({"network": bare, "predict": predict}, repeats=9, seconds=60)
            rows += [
                {
                    "images": f"{suffix} {size[0]}×{size[1]}",
                    "part": name,
                    "images/s": number / s,
                    "of network": seconds["network"] / s,
                }
                for name, s in seconds.items()
            ]
    return rows


def benchmark_cuda() -> list[dict]:
    """Rows of milliseconds and ratios. Raises what CUDA raises at a wait for the device."""
    from segtrain import models
    from segtrain.metrics import predict

    if not torch.cuda.is_available():
        sys.exit("cuda: no CUDA device found")
    n, c, side, device = 16, 19, 512, torch.device("cuda")
    logits, target = (part.to(device) for part in blobs((n, c, side, side)))
    wide, both, rows = target.long(), losses.PixelRegion(losses.CrossEntropy(), losses.Dice()), []

    def timed(part: str, functions: dict, repeats: int = 50) -> None:
        """Rows of functions that take turns; the first is what the others are compared with.

        The device gets something else to do first, so that its time is not that of the host, which launches its kernels.
        """
        times = {name: ([], []) for name in functions}
        for turn in range(repeats + 5):
            for name, function in functions.items():
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                torch.cuda._sleep(20_000_000)  # cycles, 10 ms or more
                start.record()
                begin = time.perf_counter()
                function()
                host = time.perf_counter() - begin
                end.record()
                torch.cuda.synchronize()
                if turn >= 5:
                    times[name][0].append(start.elapsed_time(end))
                    times[name][1].append(1000 * host)
        medians = {name: [statistics.median(each) for each in both] for name, both in times.items()}
        base = next(iter(medians.values()))[0]
        rows.extend(
            {"part": f"{part}: {name}", "milliseconds": ms, "ratio": ms / base, "host milliseconds": host}
            for name, (ms, host) in medians.items()
        )

    def in_form(how: str, z: torch.Tensor):
        def run() -> None:
            os.environ["SEGTRAIN_SUMS"] = how
            step(both, z, target)
            del os.environ["SEGTRAIN_SUMS"]

        return run

    full, half = (logits.to(dtype).requires_grad_() for dtype in (torch.float32, torch.bfloat16))
    last = half.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    everything = lambda z, y: F.cross_entropy(z, y, ignore_index=255)  # noqa: E731
    timed(
        f"{n}×{c}×{side}²",
        {
            "F.cross_entropy, float32": lambda: step(everything, full, wide),
            "CE + Dice by kernels, float32": in_form("triton", full),
            "CE + Dice by kernels, bfloat16": in_form("triton", half),
            "CE + Dice by kernels, bfloat16, channels last": in_form("triton", last),
            "CE + Dice in PyTorch, bfloat16": in_form("dense", half),
        },
    )

    batch, training, scores = cuda_step(models.unet(encoder="resnet34", num_classes=c), both, target)
    prediction, bare = predict(half.detach(), False), bare_step(training.model, batch)
    timed(
        f"U-Net, ResNet-34, {n}×{side}², bfloat16",
        {
            "bare step, F.cross_entropy": bare,
            "step": lambda: training([batch], 1),
            "its loss": in_form("triton", last),
            "scores of a batch": lambda: scores.update(prediction, target),
        },
        repeats=20,
    )
    steps, alone = 38, rows[-3]["milliseconds"]
    torch.cuda.synchronize()
    begin = time.perf_counter()
    torch.cuda.set_sync_debug_mode("error")
    for number in range(2, 2 + steps):
        training([batch], number)
    scores.update(prediction, target)
    torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    each = 1000 * (time.perf_counter() - begin) / steps
    row = {"part": f"a step of {steps} without a wait", "milliseconds": each, "ratio": each / alone}
    rows.append({**row, "host milliseconds": each})
    return rows


def bare_step(model, batch):
    """What a loop by hand does with a batch, without clipping, check for finite numbers and moving average."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def run() -> None:
        images, target = (part.to("cuda", non_blocking=True) for part in batch[:2])
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(images)
        F.cross_entropy(logits.float(), target.long(), ignore_index=255).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def cuda_step(model, loss, target: torch.Tensor):
    """A pinned batch, a Step of the trainer, and scores, for benchmark_cuda."""
    from segtrain import optimizers, schedules
    from segtrain.metrics import SegmentationScores
    from segtrain.training import Parts
    from segtrain.training.step import Step

    n, side, device = len(target), target.shape[-1], torch.device("cuda")
    torch.backends.cudnn.benchmark = True
    model = model.to(device)
    optimizer, train = optimizers.adamw(model), type("Train", (), {"names": [""] * n, "batch_size": n})
    parts = Parts(model, loss, optimizer, schedules.constant(optimizer, 10**6), train, None, None)
    training = Step(parts, device=device, precision=torch.bfloat16, clip_norm=1.0, ema_decay=0.99, compiled=False)
    training.train(frozen_encoder=False)
    images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8).pin_memory()
    return (images, target.cpu().pin_memory(), list(range(n))), training, SegmentationScores(19)


def benchmark_compare() -> list[dict]:
    """`segtrain compare` of 100 settings with 10 seeds each, on 100 images of 11 classes."""
    rng, classes, images = np.random.default_rng(0), [f"class {c}" for c in range(11)], 100
    code = (
        "import sys; from segtrain.cli import run_command; run_command('compare', sys.argv[1:])\n"
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    truth = rng.integers(100, 1000, (images, len(classes)))
    with tempfile.TemporaryDirectory() as scratch:
        for alpha, mu, seed in itertools.product(range(10), range(10), range(10)):
            found = (truth * np.clip(rng.normal(0.6 + 0.01 * alpha, 0.1, truth.shape), 0, 1)).astype(int)
            write_run(
                Path(scratch) / f"sweep/{alpha}_{mu}_{seed}", {"alpha": alpha, "mu": mu}, seed, truth, found, classes
            )
        begin, out = time.perf_counter(), str(Path(scratch) / "report")
        words = [sys.executable, "-c", code, f"{scratch}/sweep", "--out", out]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        seconds, page = time.perf_counter() - begin, Path(out, "comparison.html").stat().st_size
    kilobytes = int(done.stdout.split()[-1])
    return [{"runs": 1000, "seconds": seconds, "MiB": kilobytes / 1024, "page, MB": page / 1e6}]


def write_run(
    folder: Path, settings: dict, seed: int, truth: np.ndarray, found: np.ndarray, classes: list[str]
) -> None:
    """What `segtrain compare` reads of a run."""
    counts = {
        "tp": found,
        "fp": truth - found,
        "fn": truth - found,
        "valid": np.full(truth.shape, int(truth.sum(1).max())),
    }
    names = {"names": np.array([f"{i:03}" for i in range(len(truth))]), "classes": np.array(classes)}
    score = float((found.sum(0) / (2 * truth - found).sum(0)).mean())
    best = {"epoch": 1, "monitor": "iou/mean", "value": score}
    config = {"seed": seed, "dataset": {"background": 0, "palette": None}, "loss": {"_target_": "x", **settings}}
    write_arrays(folder / "per_image.npz", {**counts, **names})
    write_json(
        folder / "result.json", {"status": "finished", "best": best, "scores": {"iou/mean": score}, "error": None}
    )
    write_json(folder / "config.yaml", config)  # JSON is YAML
    write_json(folder / "environment.json", {"command": f"segtrain {folder.name}", "signature": str(settings)})


def benchmark_startup() -> list[dict]:
    script = str(Path(sys.executable).with_name("segtrain"))

    def run(*words: str):
        return lambda: subprocess.run(words, capture_output=True)

    commands = {
        "import hydra": run(sys.executable, "-c", "import hydra"),
        "segtrain --help": run(script, "--help"),
        "unknown key": run(script, "loss.alhpa=1"),
        "value out of range": run(script, "loss.alpha=-1"),
    }
    seconds = interleaved(commands, repeats=7, seconds=30)
    return [{"command": name, "seconds": s, "ratio": s / seconds["import hydra"]} for name, s in seconds.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["startup", "data", "trainer", "predict", "metrics", "losses"])
    parser.add_argument("--shapes", default="abcd", help="which shapes of the losses, for example cd")
    parser.add_argument("--no-peers", action="store_true", help="leave out segmentation-models-pytorch and MONAI")
    parser.add_argument("--root", help="a folder dataset for data, for example CamVid")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"))
    parser.add_argument("--fresh", action="store_true", help="give freed memory back, as Python does by itself")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.fresh:
        keep_memory()
    if arguments.memory:
        print(measure_memory(*arguments.memory))
        return
    parts = {
        "startup": benchmark_startup,
        "data": lambda: benchmark_data(arguments.root),
        "many": benchmark_many,
        "metrics": benchmark_metrics,
        "trainer": benchmark_trainer,
        "precision": benchmark_precision,
        "compare": benchmark_compare,
        "predict": benchmark_predict,
        "cuda": benchmark_cuda,
        "losses": lambda: benchmark_losses(list(arguments.shapes), not arguments.no_peers),
    }
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    results = {"threads": torch.get_num_threads(), "torch": torch.__version__, "gpu": gpu}
    for part in arguments.parts:
        rows = results[part] = parts[part]()
        shown = [
            [f"{v:.{2 if v >= 0.1 else 4}f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows
        ]
        print(table(list(rows[0]), shown, part), flush=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
