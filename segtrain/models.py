"""Segmentation networks from segmentation-models-pytorch behind closed signatures: a typo is an error.

Every model takes uint8 pixels [N,in_channels,H,W] of any size, normalises them itself and returns logits [N,C,H,W].
mean and std are of pixels scaled to 0…1; None: those the encoder's weights were trained with; for random weights
ImageNet's for 3 channels, 0.5 and 0.25 for others.
"""

from typing import TypedDict, Unpack

import torch
from torch import nn

from segtrain.arguments import NonNegativeInt, Positive, PositiveInt, checked
from segtrain.encoder_weights import load_encoder, weights_file
from segtrain.errors import ConfigError, counted, did_you_mean

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
DEPTHS = (3, 4, 5)  # of the U-Nets: how many times the encoder halves the image


class SegmentationModel(nn.Module):
    """Normalise, pad to a multiple of the network's stride by the last row and column, run the network, cut that off.

    Args:
        network: float [N,B,H,W] -> logits [N,C,H,W].
        mean, std: of each channel, for pixels scaled to 0…1.
        stride: what height and width must be a multiple of.
    """

    def __init__(self, network: nn.Module, mean: list[float], std: list[float], stride: int = 32):
        super().__init__()
        self.network, self.stride = network, stride
        self.register_buffer("scale", 1 / (255 * torch.tensor(std, dtype=torch.float32))[:, None, None])
        self.register_buffer("shift", (torch.tensor(mean) / torch.tensor(std))[:, None, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2:]
        if images.shape[1] != len(self.scale):  # which would else be spread over the channels without a word
            raise ValueError(f"images with {images.shape[1]} channels, but the network takes {len(self.scale)}")
        x = images.to(self.scale.dtype) * self.scale - self.shift
        bottom, right = -height % self.stride, -width % self.stride
        exporting = torch.compiler.is_exporting()  # for images of any size
        if exporting or bottom or right:
            x = nn.functional.pad(x, (0, right, 0, bottom), mode="replicate")  # zeros look like an object's edge
        logits = self.network(x if exporting else x.contiguous(memory_format=torch.channels_last))
        return logits[..., :height, :width]


class Common(TypedDict, total=False):
    """Arguments that all networks share.

    encoder: a name from segmentation-models-pytorch, or tu-NAME of timm.
    encoder_weights: None (random), imagenet, or a path: .safetensors or .pt of the encoder or a network, or a run.
    in_channels: of the images.
    mean, std: of each channel.
    """

    encoder: str
    encoder_weights: str | None
    in_channels: PositiveInt
    mean: list[float] | None
    std: list[Positive] | None


@checked
def unet(
    num_classes: PositiveInt,
    *,
    decoder_channels: list[PositiveInt] = (128, 64, 32, 16),
    full_resolution_skip: NonNegativeInt = 8,
    **common: Unpack[Common],
) -> SegmentationModel:
    """U-Net. Ronneberger et al., 2015, https://arxiv.org/abs/1505.04597

    Args:
        decoder_channels: of the blocks of the decoder, from the lowest resolution to the full one. As many times the
            encoder halves the image: four, as in the paper, or three or five. The fifth stage has most of the parameters.
        full_resolution_skip: channels of a skip connection at full resolution, as in the paper. The encoders of
            segmentation-models-pytorch begin with a stride of 2 and give none, so that without it objects of a few
            pixels are seen by no skip connection; 0: none.
    """
    model = _model("Unet", num_classes, list(decoder_channels), **common)
    if full_resolution_skip:
        channels = len(model.scale), full_resolution_skip
        model.network = _FullResolutionSkip(model.network, decoder_channels, *channels)
    return model


@checked
def unetplusplus(
    num_classes: PositiveInt, *, decoder_channels: list[PositiveInt] = (128, 64, 32, 16), **common: Unpack[Common]
) -> SegmentationModel:
    """UNet++. Zhou et al., 2018, https://arxiv.org/abs/1807.10165

    Args:
        decoder_channels: as those of `unet`.
    """
    return _model("UnetPlusPlus", num_classes, list(decoder_channels), **common)


@checked
def fpn(num_classes: PositiveInt, **common: Unpack[Common]) -> SegmentationModel:
    """Feature pyramid network. Kirillov et al., 2019, https://arxiv.org/abs/1901.02446"""
    return _model("FPN", num_classes, None, **common)


@checked
def deeplabv3plus(num_classes: PositiveInt, **common: Unpack[Common]) -> SegmentationModel:
    """DeepLabV3+. Chen et al., 2018, https://arxiv.org/abs/1802.02611"""
    return _model("DeepLabV3Plus", num_classes, None, **common)


@checked
def segformer(num_classes: PositiveInt, **common: Unpack[Common]) -> SegmentationModel:
    """SegFormer. Xie et al., 2021, https://arxiv.org/abs/2105.15203"""
    return _model("Segformer", num_classes, None, **{"encoder": "mit_b0", **common})


def _model(
    name: str,
    num_classes: int,
    decoder_channels: list[int] | None,
    encoder: str = "resnet18",
    encoder_weights: str | None = None,
    in_channels: int = 3,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> SegmentationModel:
    import segmentation_models_pytorch as smp

    _check_encoder(encoder, smp.encoders.encoders)
    from_file = encoder_weights if encoder_weights not in (None, "imagenet") else None
    if from_file:
        weights_file(from_file)  # a mistake is answered before the network is made
    weights = None if from_file else encoder_weights
    shape = {"encoder_weights": weights, "in_channels": in_channels, "classes": num_classes}
    depth = DEPTHS[-1]
    if decoder_channels is not None:
        depth = len(decoder_channels)
        if depth not in DEPTHS:
            what = f"a decoder with {counted(depth, 'block')}"
            raise ConfigError(
                what, "model.decoder_channels", f"give {DEPTHS[0]} to {DEPTHS[-1]} numbers, the channels of each block"
            )
        shape |= {"decoder_channels": decoder_channels, "encoder_depth": depth}
    try:
        network = getattr(smp, name)(encoder, **shape)
    except OSError as error:  # the hub's errors of a missing network are OSErrors
        from huggingface_hub.constants import HF_HUB_CACHE

        raise ConfigError(
            f"the imagenet weights of {encoder} cannot be loaded: {str(error).splitlines()[0]}",
            "model.encoder_weights=imagenet",
            f"they are downloaded once and kept in {HF_HUB_CACHE}; without a network, copy that folder from a machine that has "
            "them (HF_HOME sets another folder), or use model.encoder_weights=PATH or model.encoder_weights=null",
        ) from error
    if depth < DEPTHS[-1]:
        _remove_unused(network.encoder, in_channels)
    found = load_encoder(network.encoder, from_file) if from_file else None
    expected = found or (_trained_with(encoder, encoder_weights) if encoder_weights else None)
    return SegmentationModel(network, *_normalisation(in_channels, mean, std, encoder_weights, expected), 2**depth)


def _remove_unused(encoder: nn.Module, in_channels: int) -> None:
    """Remove the stages of an encoder that are deeper than the decoder uses; segmentation-models-pytorch keeps them, and of some encoders runs them.

    An encoder for images of one size, or whose stages are woven together as HRNet's, keeps them.
    """
    images = torch.zeros(1, in_channels, 64, 64)
    removed: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        parameters = list(encoder.parameters())
        with torch.enable_grad():
            features = encoder.eval()(images)
            slopes = torch.autograd.grad(sum(f.sum() for f in features), parameters, allow_unused=True)
        used = {parameter for parameter, slope in zip(parameters, slopes, strict=True) if slope is not None}
        for parent in list(encoder.modules()):
            for name, child in parent.named_children():
                inside = set(child.parameters())
                if inside and inside.isdisjoint(used) and not isinstance(child, CONTAINERS):
                    removed.append((parent, name, child))
                    setattr(parent, name, _Removed())
        encoder(images)
    except (AssertionError, RuntimeError, TypeError, ValueError):
        for parent, name, child in reversed(removed):
            setattr(parent, name, child)
    encoder.train()


class _Removed(nn.Module):
    """In place of a part of an encoder that nothing depends on."""

    def forward(self, x: torch.Tensor, *_) -> torch.Tensor:
        return x


class _FullResolutionSkip(nn.Module):
    """A U-Net of segmentation-models-pytorch whose last decoder block also sees two convolutions of the image."""

    def __init__(self, unet: nn.Module, decoder_channels: list[int], in_channels: int, skip_channels: int):
        super().__init__()
        from segmentation_models_pytorch.base.initialization import initialize_decoder
        from segmentation_models_pytorch.base.modules import Conv2dReLU
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

        encoder_channels = unet.encoder.out_channels[1:]
        self.encoder = unet.encoder
        self.image = nn.Sequential(
            Conv2dReLU(in_channels, skip_channels, kernel_size=3, padding=1, use_norm="batchnorm"),
            Conv2dReLU(skip_channels, skip_channels, kernel_size=3, padding=1, use_norm="batchnorm"),
        )
        self.decoder = UnetDecoder(
            (0, skip_channels, *encoder_channels),  # it leaves out the first
            decoder_channels,
            n_blocks=len(decoder_channels),
            add_center_block=not isinstance(unet.decoder.center, nn.Identity),
        )
        initialize_decoder(self.image)
        initialize_decoder(self.decoder)
        self.segmentation_head = unet.segmentation_head  # the last of the modules, as in other networks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, *features = self.encoder(x)
        return self.segmentation_head(self.decoder([x, self.image(x), *features]))


def set_prior_bias(model: nn.Module, counts) -> None:
    """The bias of the last convolution becomes log p of each class, multi-label log p/(1-p); p is its share of the pixels.

    A class without pixels is given half a pixel. Raises ConfigError when the model does not end in a convolution with a
    bias per class. Lin et al., 2017, §4.1, https://arxiv.org/abs/1708.02002
    """
    last = [module for module in model.modules() if isinstance(module, nn.Conv2d)][-1:]
    if not last or last[0].bias is None or len(last[0].bias) != len(counts.class_names):
        raise ConfigError(
            "the model does not end in a convolution with a bias per class", "trainer.prior_bias", "set it to false"
        )
    share = torch.tensor((counts.pixels + 0.5) / (counts.valid_pixels + 1))
    with torch.no_grad():
        last[0].bias.copy_(share.logit() if counts.multilabel else share.log())


def _normalisation(
    channels: int, mean, std, weights: str | None, expected: tuple | None
) -> tuple[list[float], list[float]]:
    """Mean and std as given; else those the encoder's weights expect, ImageNet's for 3 channels, 0.5 and 0.25 for others.

    Raises ConfigError for another number than one per channel.
    """
    usual = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ([0.5] * channels, [0.25] * channels)
    if weights is not None:
        # In other channels as the first layer's filters.
        usual = tuple(
            [sum(v) / len(v)] if channels == 1 else [v[i % len(v)] for i in range(channels)]
            for v in expected or (IMAGENET_MEAN, IMAGENET_STD)
        )
    mean, std = mean or usual[0], std or usual[1]
    if not len(mean) == len(std) == channels:
        what = f"{len(mean)} means and {len(std)} standard deviations for {channels} channels"
        raise ConfigError(what, "model.mean, model.std", "give one per channel, or null")
    return mean, std


def _trained_with(encoder: str, weights: str) -> tuple[list[float], list[float]] | None:
    """Mean and std that the weights of an encoder expect; None when that is not known here."""
    if encoder.startswith("tu-"):
        import timm

        settings = timm.models.get_pretrained_cfg(encoder.removeprefix("tu-"))
        return None if settings is None else (list(settings.mean), list(settings.std))
    if weights == "imagenet":
        import segmentation_models_pytorch as smp

        settings = smp.encoders.get_preprocessing_params(encoder)  # beside the weights that were just fetched
        return list(settings["mean"]), list(settings["std"])
    half = encoder.startswith(("inception", "xception", "timm-tf_efficientnet_lite"))
    return ([0.5] * 3, [0.5] * 3) if half else None


def _check_encoder(encoder: str, known) -> None:
    if encoder in known:
        return
    if encoder.startswith("tu-"):
        import timm

        if timm.is_model(encoder.removeprefix("tu-")):
            return
        known = [f"tu-{name}" for name in timm.list_models()]
    raise ConfigError(
        f"no encoder {encoder!r}{did_you_mean(encoder, known)}",
        "model.encoder",
        "use a name from segmentation-models-pytorch (resnet18, resnet50, efficientnet-b0, mit_b0, …) or tu-NAME from timm",
    )
