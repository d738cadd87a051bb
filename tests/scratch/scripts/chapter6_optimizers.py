"""The optimisers raced on digits."""

from two_layer_net import TwoLayerNet

from xpcnn.scratch.mnist import load_mnist
from xpcnn.scratch.optimizer import *  # noqa: F403
from xpcnn.scratch.util import smooth_curve

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
