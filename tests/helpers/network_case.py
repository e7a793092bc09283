"""The contract that every network of the collection keeps; a network's test only declares its tables."""

import copy

import pytest
import torch


class NetworkContract:
    """Inherit, and declare the class attributes.

    Attributes:
        build: callable that makes a small network.
        shapes: (input shape, output shape in evaluation mode) pairs.
        parameter_counts: (arguments of the full-size network, exact number of parameters) pairs.
        idle_parameters: names of parameters that legitimately receive no gradient.
    """

    shapes: tuple = ()
    parameter_counts: tuple = ()
    idle_parameters: tuple = ()

    def build(self):
        raise AssertionError("declare build()")

    def build_full_size(self, **arguments):
        raise AssertionError("declare build_full_size()")

    def evaluation_network(self):
        """A small network with non-trivial statistics, as after training."""
        network = self.build()
        for module in network.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
        return network.eval()

    def test_output_shapes(self):
        network = self.evaluation_network()
        for given, expected in self.shapes:
            with torch.no_grad():
                assert network(torch.randn(given)).shape == torch.Size(expected)

    def test_every_parameter_receives_a_gradient(self):
        network = self.build().train()
        given = self.shapes[0][0]
        output = network(torch.randn(2, *given[1:]))
        (output * torch.randn_like(output)).sum().backward()
        without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == list(self.idle_parameters)

    def test_a_case_alone_equals_the_case_in_a_batch(self):
        network = self.evaluation_network().double()
        batch = torch.randn(2, *self.shapes[0][0][1:], dtype=torch.float64)
        with torch.no_grad():
            together, alone = network(batch), network(batch[:1])
        torch.testing.assert_close(together[:1], alone, atol=1e-9, rtol=1e-9)

    def test_evaluation_is_deterministic_and_survives_the_state_dict(self):
        network = self.evaluation_network()
        other = self.build().eval()
        other.load_state_dict(copy.deepcopy(network.state_dict()))
        image = torch.randn(self.shapes[0][0])
        with torch.no_grad():
            first = network(image)
            assert torch.equal(first, network(image))
            assert torch.equal(first, other(image))

    def test_script_equals_eager_at_every_size(self):
        network = self.evaluation_network()
        scripted = torch.jit.script(network)
        for given, _ in self.shapes:
            image = torch.randn(given)
            with torch.no_grad():
                assert torch.equal(scripted(image), network(image))

    def test_parameter_counts_are_pinned(self):
        if not self.parameter_counts:
            pytest.fail("declare parameter_counts")
        for arguments, expected in self.parameter_counts:
            with torch.device("meta"):
                network = self.build_full_size(**arguments)
            assert sum(p.numel() for p in network.parameters()) == expected, arguments
