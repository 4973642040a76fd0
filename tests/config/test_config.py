"""Every YAML composes and is right; signatures are read without importing; saved configs are data."""

import inspect
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from segtrain.arguments import NonNegative, checked, mistake
from segtrain.config import compose as config
from segtrain.config import schema as config_check
from segtrain.config.build import build
from segtrain.config.choices import defaults_of
from segtrain.config.saved import load_saved, settings_in
from segtrain.config.schema import as_text, config_mistakes, flat
from segtrain.config.signatures import signature_of
from segtrain.errors import ConfigError
from segtrain.runs.environment import changes, differing

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NEEDED = {  # settings an option cannot have a default for, and companions it needs
    "dataset=folder": ["dataset.root=x", "dataset.num_classes=2"],
    **{f"dataset={name}": ["dataset.root=x"] for name in ("camvid", "voc", "cityscapes", "ade20k")},
    "dataset=magnetic_tile": ["dataset.root=x"],
    "dataset=python": [
        *("dataset.num_classes=2", "dataset.class_names=[a,b]", "dataset.ignore_index=255"),
        *("dataset.background=0", "dataset.multilabel=false"),
    ],
    **{f"experiment={name}": ["dataset.root=x"] for name in ("street_scenes", "defects", "thin_structures")},
    "experiment=few_images": ["dataset.root=x", "dataset.num_classes=3"],
    "labels=teacher": ["labels.teacher.run=RUN"],
    "sampling=proposals": ["sampling.coarse.run=RUN"],
    **{f"augment={name}": ["augment.size=[32,32]"] for name in ("none", "light", "strong")},
    "weighting=manual": ["weighting.weights=[1,2,3,4]"],
}
OPTIONS = sorted(
    f"{file.parent.relative_to(CONFIGS)}={file.stem}"
    for file in CONFIGS.glob("*/*.yaml")
    if file.parent.name != "hydra"
)


def compose(*overrides):
    return config.without_hydra(config.compose(list(overrides)))


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_passes_the_check(option):
    config_check.check_config(compose(option, *NEEDED.get(option, [])))


@pytest.mark.parametrize(
    "option",
    [
        o
        for o in OPTIONS
        if o.split("=")[0] in ("loss", "weighting", "augment", "sampling") and o != "sampling=proposals"
    ],
)
def test_every_option_builds(option):
    cfg = compose(option, *NEEDED.get(option, []))
    built = build(cfg, option.split("=")[0])
    assert callable(built)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_option_starts_with_a_note(file):
    assert file.read_text().startswith("# ")


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("**/*.yaml")), ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_option_says_every_argument_that_has_a_default(file):
    """What is not in the YAML cannot be changed with key=value."""
    loaded = OmegaConf.load(file)
    if "_target_" not in loaded or "defaults" in loaded:
        pytest.skip("only adds to another option")
    group = file.parent.name
    if group == "configs" or "hydra" in file.parts:
        return
    provided = config_check.PARTS.get(group, set())
    missing = [n for n in signature_of(loaded._target_).annotations if n not in loaded.keys() | provided]
    allowed = {"augment": True}.get(group, [])
    assert allowed is True or set(missing) <= set(allowed)


@pytest.mark.parametrize(
    "file", [CONFIGS / "config.yaml", *sorted(CONFIGS.glob("[!eh]*/*.yaml"))], ids=lambda f: f.stem
)
def test_a_class_has_the_defaults_of_its_option(file):
    """A part built in Python is the one that the command line trains with, unless the option is of a paper or a dataset."""
    loaded = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    parts = loaded.values() if file.stem == "config" else [loaded]
    for part in [p for p in parts if isinstance(p, dict) and "_target_" in p and file.stem != "jdt"]:
        for name, parameter in inspect.signature(pydoc.locate(part["_target_"])).parameters.items():
            value = part.get(name)
            if parameter.default is parameter.empty or (
                isinstance(value, str) and (value.startswith("${") or value == "auto")
            ):
                continue
            default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            assert name not in part or default == value, name


def test_all_mistakes_are_reported_together():
    cfg = compose()
    OmegaConf.set_struct(cfg, False)
    cfg.loss.alpha, cfg.optimizer.lr, cfg.seed, cfg.sede = -1, "fast", -3, 1
    del cfg.model.encoder_weights, cfg.dataset.size
    with pytest.raises(ConfigError) as error:
        config_check.check_config(cfg)
    for text in (
        "5 mistakes",
        "loss.alpha=-1",
        "optimizer.lr='fast'",
        "seed=-3",
        "'sede', did you mean 'seed'",
        "needs 'size'",
    ):
        assert text in error.value.what


def test_a_weighting_must_be_read():
    with pytest.raises(ConfigError, match="has no effect"):
        config_check.check_config(compose("loss=dice", "weighting=enet"))
    config_check.check_config(compose("loss=dice", "weighting=enet", "loss.class_weights=${class_weights}"))


def test_signatures_are_read_without_importing():
    code = (
        "import sys; from segtrain.config.signatures import signature_of as s;"
        "assert 'alpha' in s('segtrain.losses.PixelRegion').annotations;"
        "assert s('torch.optim.SGD').required == ('params',);"
        "assert s('segtrain.losses.Jaccard').annotations['aggregate'] is not None;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_signatures_of_what_is_not_there():
    for target, text in {
        "segtrain.losses.Dize": "segtrain.losses has no 'Dize', did you mean 'Dice'?",
        "segtrain.losses": "is a module, not a class",
        "nowhere.Loss": "no package 'nowhere'",
    }.items():
        with pytest.raises(LookupError, match=text.replace("?", r"\?")):
            signature_of(target)


TARGETS = sorted(
    {
        target
        for file in CONFIGS.glob("**/*.yaml")
        if "hydra" not in file.parts
        for target in re.findall(r"_target_: (\S+)", file.read_text())
    }
)


@pytest.mark.parametrize("target", TARGETS)
def test_signatures_read_from_the_source_are_those_of_python(target):
    """The same parameters, and no annotation that is not understood and so would let anything pass."""

    read, kinds = signature_of(target), inspect.Parameter
    own = inspect.signature(pydoc.locate(target)).parameters
    named = {name: p for name, p in own.items() if p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)}
    assert named.keys() <= read.annotations.keys()
    assert {n for n, p in named.items() if p.default is kinds.empty} <= set(read.required)
    assert not read.open
    assert target.partition(".models.")[1] == "" or Any not in read.annotations.values(), "of a TypedDict"
    for name, parameter in named.items():
        assert (
            parameter.annotation is kinds.empty or parameter.annotation is Any or read.annotations[name] is not Any
        ), name


def test_a_class_without_init_and_keywords_for_the_base_have_the_signature_of_the_base():
    same = signature_of("segtrain.losses.Jaccard").annotations
    assert signature_of("segtrain.losses.Dice").annotations.keys() == same.keys()
    tversky = signature_of("segtrain.losses.Tversky")
    assert tversky.annotations.keys() == {"fp_weight", "fn_weight", *same}
    assert not tversky.open


def test_aliases_and_literals_are_understood():
    annotations = signature_of("segtrain.losses.Dice").annotations
    assert mistake("bach", annotations["aggregate"])
    assert mistake([], annotations["classes"])
    assert mistake([1, 2], annotations["classes"]) is None
    assert mistake([1.0, float("nan")], annotations["class_weights"])


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (1, float, True),
        (True, float, False),
        ("1", float, False),
        (float("inf"), float, False),
        (1.5, int, False),
        (1, int, True),
        (True, bool, True),
        (0, bool, False),
        (None, int | None, True),
        ([1, 2], list[int], True),
        ([1, "a"], list[int], False),
        ("ab", list[str], False),
        (0, NonNegative, True),
        (-0.1, NonNegative, False),
        ({}, dict, True),
        (3, "unknown", True),
    ],
)
def test_values_against_types(value, annotation, fits):
    assert (mistake(value, annotation) is None) == fits


def test_checked_names_function_argument_and_value():
    @checked
    def make(size: NonNegative, name: str = "x"):
        return size, name

    assert make(1, name="y") == (1, "y")
    with pytest.raises(ValueError, match="size=-2 must be a number >= 0"):
        make(-2)


def test_job_names_are_short_readable_and_safe():
    assert config.job_name(3, "loss.alpha=0.25,weighting=log_ratio") == "03_alpha=0.25,weighting=log_ratio"
    assert "/" not in config.job_name(1, "dataset.root=/a/b,model.encoder_weights=c/d")
    assert len(config.job_name(12, "augment.size=" + "9" * 400)) <= 120


def saved(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    return tmp_path / "config.yaml"


HOSTILE = {
    "a package": "loss:\n  _target_: os.system\n  command: ls\n",
    "a name that leads out of torch.nn": "augment:\n  _target_: torch.nn.modules.module.torch.load\n",
    "torch.hub": "model:\n  _target_: torch.nn.modules.module.torch.hub.load\n  source: local\n",
    "a name that leads out of segtrain": "loss:\n  _target_: segtrain.losses.loss.torch.load\n",
    "a function that writes files": "augment:\n  _target_: albumentations.save\n",
    "a command": "augment:\n  _target_: segtrain.commands.compare.main\n",
    "in a list": "loss:\n  _target_: segtrain.losses.Phased\n  losses:\n  - _target_: os.system\n",
    "below a class that is known": "loss:\n  _target_: segtrain.losses.PixelRegion\n  pixel:\n    _target_: os.system\n",
    "trust in the file": "labels:\n  teacher:\n    _target_: os.system\n    trust: [os]\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_saved_configs_are_data_not_code(tmp_path, name):
    with pytest.raises(ConfigError, match="which is not a class of segtrain"):
        load_saved(saved(tmp_path, HOSTILE[name]), [], [])


@pytest.mark.parametrize(
    "text",
    [
        "seed: ${oc.env:HOME}\n",
        'seed: "\\x24{oc.env:HOME}"\n',
        "class_weights: ${class_weights}\n",
        'model: "\\x24{oc.create:{_target_: torch.hub.load}}"\n',
    ],
)
def test_saved_configs_have_no_interpolations_however_they_are_spelled(tmp_path, text):
    with pytest.raises(ConfigError, match="must be resolved"):
        load_saved(saved(tmp_path, text), [], [])


def test_mask_values_are_keys_of_a_saved_config(tmp_path):
    assert load_saved(saved(tmp_path, "dataset:\n  remap:\n    255: 1\n"), [], []).dataset.remap == {255: 1}


@pytest.mark.parametrize(
    ("text", "value"), [("best", "best"), ("{false_alarms: 0.1}", {"false_alarms": 0.1}), ("null", None)]
)
def test_a_mapping_of_a_saved_config_is_replaced_as_a_whole(tmp_path, text, value):
    file = saved(tmp_path, "inference:\n  presence: {area: 20, confidence: 0.8}\n")
    assert load_saved(file, [f"inference.presence={text}"], []).inference.presence == value


@pytest.mark.parametrize(
    "text",
    ["a: !!python/object/apply:os.system [ls]\n", "[1", "- 1\n", "a: \x00\n", "a: {1.5: 2}\n", "a: {true: 2}\n"],
)
def test_damaged_configs_are_named(tmp_path, text):
    with pytest.raises(ConfigError, match="not a config"):
        load_saved(saved(tmp_path, text), [], [])


def test_trust_is_of_the_command_line_and_of_classes_that_live_there(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import os\n\n\nclass Loss:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_saved(saved(tmp_path, "loss:\n  _target_: mine.Loss\n"), [], ["mine"]).loss._target_ == "mine.Loss"
    with pytest.raises(ConfigError, match=r"builds mine\.os\.system"):
        load_saved(saved(tmp_path, "loss:\n  _target_: mine.os.system\n"), [], ["mine"])
    text = "labels:\n  teacher:\n    _target_: segtrain.runs.trained.load\n    trust: [torch]\n"
    assert load_saved(saved(tmp_path, text), [], []).labels.teacher.trust == []


def test_saved_configs_take_overrides_of_known_keys(tmp_path):
    file = saved(tmp_path, "seed: 1\nloader:\n  workers: 2\n")
    assert load_saved(file, ["loader.workers=0"], []).loader.workers == 0
    with pytest.raises(ConfigError, match="did you mean 'workers'"):
        load_saved(file, ["loader.worker=0"], [])
    with pytest.raises(ConfigError, match="no folder"):
        load_saved(tmp_path / "nowhere/config.yaml", [], [])


@pytest.mark.slow
@pytest.mark.parametrize("option", [o for o in OPTIONS if o.startswith("loss=")])
def test_a_compiled_model_trains_one_step_with_every_loss(option):
    import torch

    torch.manual_seed(0)
    torch.compiler.reset()
    loss = build(compose(option), "loss")
    model = torch.nn.Conv2d(3, 4, 3, padding=1)
    compiled = torch.compile(lambda images, target: loss(model(images), target), backend="aot_eager")
    images, several = torch.randn(2, 3, 8, 8), getattr(loss, "activation", None) == "sigmoid"
    target = torch.randint(0, 2 if several else 4, (2, 4, 8, 8) if several else (2, 8, 8))
    before = model.weight.detach().clone()
    plain = loss(model(images), target)
    value = compiled(images, target)
    torch.testing.assert_close(value, plain)
    value.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(model.weight, before)
    assert torch.isfinite(model.weight).all()


OWN = """
import torch.nn as nn
from segtrain.data.augment import Augmentation
from segtrain.data.dataset import SegmentationDataset
from segtrain.losses import Loss
from segtrain.metrics import Metric


class Keys:
    def __init__(self, **keys):
        pass


class Data(SegmentationDataset):
    ignore_index, background = 255, 0
    class_names: list[str]

    def __init__(self, **keys):
        self.names, (self.num_classes, self.multilabel) = [], (2, False)

    @property
    def image(self):
        pass


class Light(Augmentation):
    def __init__(self, **keys):
        pass


class Draw(Keys):
    __call__ = None


class Order(Keys):
    def draw(self):
        pass


class Plain(nn.Module):
    def __init__(self, **keys):
        super().__init__()


class Derived(Loss):
    def __init__(self, **keys):
        super().__init__()


class Good(Derived):
    def from_sums(self, sums):
        return sums.TP.sum()


class Half(Metric):
    def __init__(self, **keys):
        pass

    def compute(self):
        return {}


class Unknown(Keys):
    def __init__(self, **keys):
        vars(self).update(keys)


class ByAnother(Keys):
    def __init__(self, **keys):
        Keys.__init__(self, **keys)


class ByTarget(Good):
    def __init__(self, target: float):
        self.target = target


First = Good
Alias = First
VALUE = 3


def called(logits, target):
    return logits.mean()
"""
LACKING = {  # by class of OWN
    "dataset": ("Data", "has no class_names, mask: see segtrain.data.dataset.SegmentationDataset"),
    "augment": ("Light", "has no __call__: see segtrain.data.augment.Augmentation"),
    "sampling": ("Order", "has no __call__: see segtrain.data.sampling.Sampling"),
    "loss": ("Plain", "has no forward or from_sums: see segtrain.losses.loss.Loss"),
    "metric": ("Half", "has no reset, update: see segtrain.metrics.metric.Metric"),
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "lacking.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("lacking", None)


@pytest.mark.parametrize("part", LACKING)
def test_the_check_names_what_a_users_class_lacks(own, part):
    cfg, (name, text) = compose(), LACKING[part]
    cfg[part]._target_ = f"lacking.{name}"
    assert config_check.config_mistakes(cfg) == [f"{part}: lacking.{name} {text}"]
    assert "lacking" not in sys.modules


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("sampling", "Draw"),
        ("loss", "Good"),
        ("dataset", "Unknown"),
        ("dataset", "ByAnother"),
        ("labels", "Plain"),
        ("loss", "Alias"),
    ],
)
def test_the_check_accepts_what_is_there_and_what_the_source_does_not_tell(own, part, name):
    cfg = compose()
    cfg[part]._target_ = f"lacking.{name}"
    assert not config_check.config_mistakes(cfg)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("called", "lacking.called is a function of logits, target: name a class, whose objects are called with them"),
        ("ByTarget", "lacking.ByTarget needs 'target': give +loss.target=VALUE"),
        ("VALUE", "lacking.VALUE is a value, not a class"),
    ],
)
def test_what_is_no_class_is_named(own, name, text):
    cfg = compose()
    cfg.loss = {"_target_": f"lacking.{name}"}
    assert text in config_check.config_mistakes(cfg)[0]


def test_the_check_reads_the_losses_of_a_loss(own):
    cfg = compose("loss=ce_dice")
    cfg.loss.region._target_ = "lacking.Derived"
    assert [m.split(":")[0] for m in config_check.config_mistakes(cfg)] == ["loss.region"]


@pytest.mark.parametrize("loss", ["ce_dice", "phased"])  # phased holds its losses in a list
def test_a_config_from_before_the_weights_are_known_keeps_what_reads_them(tmp_path, loss):
    cfg = config.without_hydra(config.compose(["weighting=log_ratio", f"loss={loss}"]))
    text = as_text(cfg, weights_known=False)
    assert "${class_weights}" in text
    assert text.count("${") == text.count("${class_weights}")
    found = load_saved(saved(tmp_path, text), [], [])
    assert config_mistakes(found) == []
    found.class_weights = [1.0, 2.0, 3.0, 4.0]
    pixel = found.loss.losses[0] if loss == "phased" else found.loss.pixel
    assert pixel.class_weights == [1.0, 2.0, 3.0, 4.0]
    assert "${" not in as_text(found)
    assert config_mistakes(load_saved(saved(tmp_path, as_text(found)), [], [])) == []
    assert changes(settings_in(text), found, []) == {}
    found.weighting.mu = 0.5
    assert changes(settings_in(text), found, ["weighting.mu"]) == {"weighting.mu": 0.5}


def test_defaults_are_those_of_the_options_that_were_chosen():
    words = ["dataset=folder", "dataset.root=x", "dataset.num_classes=3", "loss=ce", "loss.class_weights=[1,2,3]"]
    cfg = compose(*words)
    choices = {"dataset": "folder", "loss": "ce", "weighting": "of_mine"}
    settings = flat(cfg) | choices
    assert differing(defaults_of(choices, settings), settings) == {
        "dataset": "folder",
        "dataset.root": "x",
        "dataset.num_classes": 3,
        "loss": "ce",
        "loss.class_weights": [1, 2, 3],
        "weighting": "of_mine",
    }
