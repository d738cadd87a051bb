"""The optimisers raced, on a bowl in the plane and on digits."""

from collections import OrderedDict

from two_layer_net import TwoLayerNet

from xpcnn.scratch.mnist import load_mnist
from xpcnn.scratch.optimizer import *  # noqa: F403
from xpcnn.scratch.util import smooth_curve

# a bowl: f(x, y) = x²/20 + y²
bowl = OrderedDict()
bowl["SGD"] = SGD(lr=0.95)  # noqa: F405
bowl["Momentum"] = Momentum(lr=0.1)  # noqa: F405
bowl["AdaGrad"] = AdaGrad(lr=1.5)  # noqa: F405
bowl["Adam"] = Adam(lr=0.3)  # noqa: F405
paths = {}
for key in bowl:
    params, grads = {"x": -7.0, "y": 2.0}, {"x": 0, "y": 0}
    paths[key] = []
    for _ in range(30):
        paths[key].append((params["x"], params["y"]))
        grads["x"], grads["y"] = params["x"] / 10.0, 2.0 * params["y"]
        bowl[key].update(params, grads)

# digits
(x_train, t_train), _ = load_mnist(normalize=True)
train_size, batch_size, max_iterations = x_train.shape[0], 64, 40
optimizers = {
    "SGD": SGD(),  # noqa: F405
    "Momentum": Momentum(),  # noqa: F405
    "Nesterov": Nesterov(),  # noqa: F405
    "AdaGrad": AdaGrad(),  # noqa: F405
    "RMSprop": RMSprop(lr=0.001),  # noqa: F405
    "Adam": Adam(),  # noqa: F405
}
networks, train_loss = {}, {}
for key in optimizers:
    networks[key] = TwoLayerNet(input_size=784, hidden_size=30, output_size=10, weight_init_std=0.05)
    train_loss[key] = []
for _ in range(max_iterations):
    batch_mask = np.random.choice(train_size, batch_size)  # noqa: F405
    x_batch, t_batch = x_train[batch_mask], t_train[batch_mask]
    for key in optimizers:
        grads = networks[key].gradient(x_batch, t_batch)
        optimizers[key].update(networks[key].params, grads)
        train_loss[key].append(networks[key].loss(x_batch, t_batch))
curves = {key: smooth_curve(train_loss[key]) for key in optimizers}
