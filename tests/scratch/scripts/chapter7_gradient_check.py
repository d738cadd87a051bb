"""The convolutional network's backpropagation held against numerical differentiation."""

from xpcnn.scratch import np
from xpcnn.scratch.simple_convnet import SimpleConvNet

network = SimpleConvNet(
    input_dim=(1, 10, 10),
    conv_param={"filter_num": 4, "filter_size": 3, "pad": 0, "stride": 1},
    hidden_size=4,
    output_size=10,
    weight_init_std=0.01,
)
X = np.random.rand(100).reshape((1, 1, 10, 10))
T = np.array([1]).reshape((1, 1))

grad_num = network.numerical_gradient(X, T)
grad = network.gradient(X, T)
differences = {key: float(np.abs(grad_num[key] - grad[key]).mean()) for key in grad_num}
