"""The deep network with its numbers cut to half precision."""

from xpcnn.scratch import np
from xpcnn.scratch.deep_convnet import DeepConvNet
from xpcnn.scratch.mnist import load_mnist

_, (x_test, t_test) = load_mnist(flatten=False)
x_test, t_test = x_test[:20], t_test[:20]

network = DeepConvNet()
full = network.predict(x_test)

x_test = x_test.astype(np.float16)
for param in network.params.values():
    param[...] = param.astype(np.float16)
half = network.predict(x_test)
print(network.accuracy(x_test, t_test))

for key, param in network.params.items():
    network.params[key] = param.astype(np.float16)
narrow = network.predict(x_test)
