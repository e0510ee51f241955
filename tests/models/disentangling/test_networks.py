import pytest
import torch

from pyro_ext.models.disentangling import Decoder, Discriminator, Encoder

NETWORKS = [("perceptron", (8, 8)), ("convolutional", (12, 8)), ("convolutional", (28, 28))]


@pytest.mark.parametrize(("network", "shape"), NETWORKS)
def test_no_image_sees_the_others_of_its_batch(network, shape):
    """Batch norm would leak: the others share the class of an image, or are all decoded ones."""
    torch.manual_seed(0)
    x, y = torch.rand(6, shape[0] * shape[1]), torch.arange(6) % 3
    encoder, decoder = Encoder(shape, 3, 2, 16, network), Decoder(shape, 3, 2, 16, network)
    critics = {
        "class": (Discriminator(shape, 3, 16, network), y),
        "pair": (Discriminator(shape, 0, 16, network), x.flip(0)),
    }
    codes = encoder(x)
    decoded = decoder(codes.z_loc, codes.s)
    assert decoded.shape == x.shape
    for at in range(6):
        own = slice(at, at + 1)
        for one, all_of_them in zip(encoder(x[own]), codes, strict=True):
            torch.testing.assert_close(one, all_of_them[own])
        torch.testing.assert_close(decoder(codes.z_loc[own], codes.s[own]), decoded[own])
        for critic, context in critics.values():
            torch.testing.assert_close(critic(x[own], context[own]), critic(x, context)[own])
    for module in (encoder, decoder, *(critic for critic, _ in critics.values())):
        assert not list(module.buffers())  # no running statistics


@pytest.mark.parametrize(("network", "shape"), NETWORKS)
def test_decoder_takes_any_batch_shape(network, shape):
    decoder = Decoder(shape, 3, 2, 16, network)
    z, s = torch.randn(4, 5, 3), torch.randn(4, 5, 2)
    images = decoder(z, s)
    assert images.shape == (4, 5, shape[0] * shape[1])
    assert (images.min() > 0, images.max() < 1) == (True, True)
    torch.testing.assert_close(images[2], decoder(z[2], s[2]))


@pytest.mark.parametrize(("network", "shape"), NETWORKS)
def test_discriminator_sees_its_context(network, shape):
    x = torch.rand(4, shape[0] * shape[1])
    by_class = Discriminator(shape, 3, 16, network)
    assert not torch.allclose(by_class(x, torch.zeros(4).long()), by_class(x, torch.ones(4).long()))
    by_pair = Discriminator(shape, 0, 16, network)
    assert not torch.allclose(by_pair(x, x), by_pair(x, x.flip(0)))
    by_class(x, torch.tensor([0, 1, 2, 0])).sum().backward()
    assert all(p.grad is not None for p in by_class.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Encoder((8, 8), z_size=0), "z_size must be an integer of at least 1, got 0"),
        (lambda: Decoder((8, 8), network="linear"), "network must be one of perceptron, convolutional; got 'linear'"),
        (
            lambda: Encoder((8, 9), network="convolutional"),
            r"image_shape must be multiples of 4 for network='convolutional', got \(8, 9\); use 'perceptron'",
        ),
        (lambda: Discriminator((8, 8), -1), "num_classes must be an integer of at least 0, got -1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
