"""Backpropagation held against numerical differentiation."""

from two_layer_net import TwoLayerNet

from xpcnn.scratch import np
from xpcnn.scratch.mnist import load_mnist

(x_train, t_train), _ = load_mnist(normalize=True, one_hot_label=True)
network = TwoLayerNet(input_size=784, hidden_size=3, output_size=10)

x_batch = x_train[:3]
t_batch = t_train[:3]
grad_numerical = network.numerical_gradient(x_batch, t_batch)
grad_backprop = network.gradient(x_batch, t_batch)

differences = {}
for key in grad_numerical:
    diff = np.average(np.abs(grad_backprop[key] - grad_numerical[key]))
    differences[key] = float(diff)
    print(key + ":" + str(diff))
