"""`segtrain lr-find`: suggest a learning rate for these settings, within two minutes."""

from argparse import Namespace

from segtrain.commands.counting import class_weights, count
from segtrain.commands.train import seed_everything
from segtrain.config.build import build, build_augment, build_dataset, build_labels, build_loss, build_sampling
from segtrain.config.launch import checked_config
from segtrain.data.loader import needs_locations
from segtrain.errors import ConfigError
from segtrain.files import write_bytes, write_rows
from segtrain.models import set_prior_bias
from segtrain.optimizers import add_parameters
from segtrain.report.charts import learning_rates
from segtrain.training import Parts
from segtrain.training.range_test import range_test


def main(arguments: Namespace) -> int:
    cfg = checked_config(arguments)
    if "lr" not in cfg.optimizer:
        raise ConfigError("the optimizer has no setting lr", "optimizer", "give your optimizer a keyword argument lr")
    seed_everything(cfg.seed, cfg.trainer.deterministic)
    train_set, trainer = build_dataset(cfg, "train"), build(cfg, "trainer")
    model = build(cfg, "model").to(trainer.device)
    optimizer, labels = build(cfg, "optimizer", model=model), build_labels(cfg, train_set)
    loader = build(cfg, "loader", pinned=trainer.device.type == "cuda")
    augment, sampling = build_augment(cfg, train_set), build_sampling(cfg)
    counts = count(train_set, needs_locations(augment, sampling))
    sampling.prepare(train_set, trainer.device)
    cfg.class_weights = class_weights(cfg, counts)
    loss = build_loss(cfg, train_set, labels).to(trainer.device)
    add_parameters(optimizer, loss)
    if trainer.prior_bias:
        set_prior_bias(model, counts)
    batches = loader.train(train_set, augment, sampling, counts, cfg.seed, annotated=labels.annotated)
    parts = Parts(model, loss, optimizer, None, batches, None, None, labels)
    print("training some steps with ever higher learning rates, for at most about a minute and a half", flush=True)
    found = range_test(trainer, parts, cfg.optimizer.lr)

    rows = [{"lr": rate, "loss": value} for rate, value in zip(found.rates, found.losses, strict=True)]
    write_rows(arguments.out / "lr_find.csv", rows)
    write_bytes(arguments.out / "lr_find.svg", learning_rates(found.rates, found.losses, found.smooth, found.suggested))
    print(
        f"{len(rows)} steps from {found.rates[0]:.0e} to {found.rates[-1]:.0e}: the loss falls fastest at the suggested rate, "
        f"optimizer.lr={found.suggested:g}\nplot: {arguments.out / 'lr_find.svg'}"
    )
    return 0
