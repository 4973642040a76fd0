"""Networks behind closed signatures: uint8 of any size in, logits of that size out."""

import pytest
import torch
from safetensors.torch import save_file

from segtrain import models
from segtrain.errors import ConfigError
from segtrain.training import device as devices

ALL = ["unet", "unetplusplus", "fpn", "deeplabv3plus", "segformer"]


@pytest.mark.parametrize("name", ALL)
def test_uint8_of_any_size_in_logits_of_that_size_out(name):
    model = getattr(models, name)(num_classes=5).eval()
    with torch.no_grad():
        logits = model(torch.randint(0, 255, (2, 3, 50, 70), dtype=torch.uint8))
    assert logits.shape == (2, 5, 50, 70)


def test_pixels_are_normalised_inside():
    seen = []
    model = models.SegmentationModel(torch.nn.Identity(), mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
    model.network.register_forward_hook(lambda m, i, o: seen.append(o))
    model(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    torch.testing.assert_close(seen[0], torch.full((1, 3, 32, 32), 2.0))
    assert {"scale", "shift"} <= set(model.state_dict())


def test_signatures_are_closed():
    with pytest.raises(TypeError, match="enkoder"):
        models.unet(num_classes=2, enkoder="resnet18")


def test_unknown_encoders_are_named():
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        models.unet(num_classes=2, encoder="resnet19")
    with pytest.raises(ConfigError, match="no encoder 'tu-resnet10'"):
        models.unet(num_classes=2, encoder="tu-resnet10")


def test_encoder_weights_from_a_file(tmp_path):
    first = models.unet(num_classes=2)
    torch.save(first.network.encoder.state_dict(), tmp_path / "encoder.pt")
    second = models.unet(num_classes=3, encoder_weights=str(tmp_path / "encoder.pt"))
    assert torch.equal(second.network.encoder.conv1.weight, first.network.encoder.conv1.weight)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match="not the weights of this encoder"):
        models.unet(num_classes=3, encoder_weights=str(tmp_path / "other.pt"))


def test_imagenet_weights_without_a_network_are_explained(monkeypatch, tmp_path):
    import segmentation_models_pytorch as smp

    def offline(*args, **kwargs):
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(smp, "Unet", offline)
    with pytest.raises(ConfigError) as error:
        models.unet(num_classes=2, encoder_weights="imagenet")
    assert "HF_HOME" in error.value.fix
    assert "model.encoder_weights=null" in error.value.fix


def test_devices():
    assert devices.choose_device("cpu").type == "cpu"
    assert devices.choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "gpu", "meta"):
        with pytest.raises(ConfigError, match=name):
            devices.choose_device(name)


def test_float32_is_float32():
    torch.backends.cudnn.allow_tf32 = True
    assert devices.choose_precision("float32", torch.device("cuda")) == torch.float32
    assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_padding_repeats_the_border():
    """A grey image padded with anything else has an edge, which a network answers to."""
    seen = []
    network = torch.nn.Conv2d(3, 2, 1)
    network.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    model = models.SegmentationModel(network, models.IMAGENET_MEAN, models.IMAGENET_STD)
    assert model(torch.full((1, 3, 33, 50), 200, dtype=torch.uint8)).shape == (1, 2, 33, 50)
    assert seen[0].shape == (1, 3, 64, 64)
    assert (seen[0].amax(dim=(2, 3)) == seen[0].amin(dim=(2, 3))).all()


def test_mean_and_std_are_those_the_encoder_was_trained_with(tmp_path):
    network = models.unet(3, encoder="tu-tf_efficientnet_lite0", decoder_channels=[16, 8, 8, 8, 8])
    torch.save(network.network.encoder.state_dict(), tmp_path / "encoder.pt")
    random_weights = network.shift / (network.scale * 255)
    assert random_weights.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406]), "ImageNet's"
    path = str(tmp_path / "encoder.pt")
    network = models.unet(3, encoder="tu-tf_efficientnet_lite0", encoder_weights=path)
    assert (network.shift / (network.scale * 255)).flatten().tolist() == pytest.approx([0.5] * 3)
    assert (1 / (255 * network.scale)).flatten().tolist() == pytest.approx([0.5] * 3)
    network = models.unet(3, encoder="tu-tf_efficientnet_lite0", encoder_weights=path, mean=[0.1] * 3)
    assert (network.shift / (network.scale * 255)).flatten().tolist() == pytest.approx([0.1] * 3)


def test_encoder_weights_from_files_of_every_kind(tmp_path, caplog):
    caplog.set_level("INFO")
    name = "tu-mobilenetv3_small_050"
    first = models.unet(2, encoder=name)
    encoder = first.network.encoder.state_dict()
    files = {
        "encoder.pt": encoder,
        "network.pt": {"model": first.state_dict(), "epoch": 3},
        "timm.pt": {key.removeprefix("model."): value for key, value in encoder.items()}
        | {"classifier.weight": torch.ones(1)},
        "lightning.pt": {"state_dict": {f"net.encoder.{key}": value for key, value in encoder.items()}},
        "tutorial.pt": {"epoch": 3, "model_state_dict": encoder, "optimizer_state_dict": {}, "loss": torch.ones(1)},
        "beside.pt": {"network": {"arch": "small"}, **encoder},
        "nested.pt": {"state_dict": {"net": encoder}, "best": torch.ones(1)},
    }
    for file, content in files.items():
        torch.save(content, tmp_path / file)
    save_file(encoder, tmp_path / "encoder.safetensors")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    torch.save({"model": first.state_dict()}, tmp_path / "run/checkpoints/best.pt")
    for file in [*files, "encoder.safetensors", "run"]:
        second = models.unet(3, encoder=name, encoder_weights=str(tmp_path / file))
        for key, value in second.network.encoder.state_dict().items():
            assert torch.equal(value, encoder[key]), (file, key)
    assert "not used by this network: classifier.weight (1 in all)" in caplog.text
    with pytest.raises(ConfigError, match="no file"):
        models.unet(3, encoder=name, encoder_weights=str(tmp_path / "nowhere.pt"))


def test_encoder_weights_for_other_channels(tmp_path):
    first = models.unet(2, encoder="resnet18")
    torch.save(first.network.encoder.state_dict(), tmp_path / "encoder.pt")
    images = torch.rand(1, 1, 32, 32)
    features = first.network.encoder.eval()(images.expand(1, 3, 32, 32))[1]
    for channels in (1, 6):
        other = models.unet(2, encoder="resnet18", in_channels=channels, encoder_weights=str(tmp_path / "encoder.pt"))
        assert len(other.scale) == channels
        found = other.network.encoder.eval()(images.expand(1, channels, 32, 32))[1]
        torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-4)


def test_a_skip_at_full_resolution_sees_single_pixels():
    torch.manual_seed(0)  # with others no feature of that pixel may be above 0
    shape = {"encoder": "resnet18", "decoder_channels": [16, 16, 8, 8, 8]}
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    for channels in (0, 4):
        model = models.unet(3, full_resolution_skip=channels, **shape).eval()
        assert model(image).shape == (1, 3, 64, 64)
        last = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)][-1]
        assert last is model.network.segmentation_head[0], "whose bias starts at the classes' shares"
    changed = image.clone()
    changed[..., 31, 31] = 255
    assert model.network.image(changed.float()).sub(model.network.image(image.float())).abs().amax(dim=1)[0, 31, 31] > 0
    first_feature_is_not_the_image = models.unet(2, encoder="vgg11_bn", in_channels=4, full_resolution_skip=4).eval()
    assert first_feature_is_not_the_image(torch.zeros(1, 4, 32, 32, dtype=torch.uint8)).shape == (1, 2, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder",
    ["resnet18", "mobilenet_v2", "efficientnet-b0", "tu-tf_efficientnet_lite0", "mit_b0"],
)
@pytest.mark.parametrize("depth", [3, 4])
def test_a_shallower_network_has_no_parameters_that_never_run(encoder, depth):
    """It pads to a multiple of its own stride."""
    whole = models.unet(2, encoder=encoder, decoder_channels=[64, 32, 16, 8, 8])
    model = models.unet(2, encoder=encoder, decoder_channels=[64, 32, 16, 8][-depth:])
    assert model.stride == 2**depth
    logits = model(torch.zeros(2, 3, 40, 50, dtype=torch.uint8))
    assert logits.shape == (2, 2, 40, 50)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.network.encoder.parameters())
    assert sum(p.numel() for p in model.parameters()) < 0.6 * sum(p.numel() for p in whole.parameters())
    with torch.no_grad():
        again = models.unet(2, encoder=encoder, decoder_channels=[64, 32, 16, 8][-depth:])
    assert again.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("encoder", ["tu-swin_tiny_patch4_window7_224", "tu-hrnet_w18_small"])
def test_an_encoder_that_takes_one_size_or_weaves_its_stages_may_be_shallower(encoder):
    model = models.unet(2, encoder=encoder, decoder_channels=[32, 16, 8, 8])
    assert model.training
    assert model(torch.zeros(1, 3, 224, 224, dtype=torch.uint8)).shape == (1, 2, 224, 224)


def test_a_shallower_encoder_takes_the_weights_of_a_whole_one(tmp_path, caplog):
    whole = models.unet(2, decoder_channels=[32, 16, 8, 8, 8])
    torch.save(whole.state_dict(), tmp_path / "network.pt")
    with caplog.at_level("INFO", "segtrain"):
        model = models.unet(2, decoder_channels=[32, 16, 8, 8], encoder_weights=str(tmp_path / "network.pt"))
    for name, tensor in model.network.encoder.state_dict().items():
        assert torch.equal(tensor, whole.network.encoder.state_dict()[name]), name
    assert "not used by this network" in caplog.text
    assert models.unetplusplus(2, decoder_channels=[32, 16, 8]).stride == 8


@pytest.mark.parametrize("channels", [[16, 8], [64, 32, 16, 8, 8, 8]])
def test_decoders_of_other_depths_are_refused(channels):
    with pytest.raises(ConfigError, match=f"a decoder with {len(channels)} blocks"):
        models.unet(2, decoder_channels=channels)


def test_weights_of_a_network_of_segtrain_bring_its_normalisation(tmp_path):
    first = models.unet(num_classes=3, in_channels=1, mean=[0.1], std=[0.05])
    torch.save(first.state_dict(), tmp_path / "network.pt")
    for channels in (1, 3):
        second = models.unet(num_classes=2, in_channels=channels, encoder_weights=str(tmp_path / "network.pt"))
        assert second.scale.flatten().tolist() == pytest.approx([1 / (255 * 0.05)] * channels)
        assert second.shift.flatten().tolist() == pytest.approx([2.0] * channels)
