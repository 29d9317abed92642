"""Four programs as one writes them for PyTorch; each gives its first losses. ``torch`` is whatever is loaded as it.

Weights, data and noise come from NumPy's generator alone, in the order in which the program asks for them.
"""

import torch
import torch.backends.cudnn as cudnn
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd import Variable
from torch.distributions import Independent, Normal, kl_divergence
from torch.distributions.categorical import Categorical
from torch.nn.modules.utils import _pair
from torch.optim.lr_scheduler import LambdaLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
cudnn.benchmark = True


class Noise:
    """What a program draws, from NumPy's generator."""

    def __init__(self, numpy):
        self.rng = numpy.random.default_rng(7)

    def normal(self, *shape):
        return torch.from_numpy(self.rng.standard_normal(shape).astype("float32")).to(device, non_blocking=True)

    def ints(self, high, *shape):
        return torch.from_numpy(self.rng.integers(0, high, shape)).to(device)

    def fill(self, module):
        """The weights' initial values."""
        for p in module.parameters():
            p.data.copy_(self.normal(*p.shape) * (0.2 if p.dim() > 1 else 0.05))
        return module.to(device)


def vae(noise, steps):
    """A convolutional variational autoencoder: reparameterised draws, a closed-form divergence, a step schedule."""

    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv2d(1, 4, _pair(3), 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2, True))
            self.heads = nn.ModuleList([nn.Linear(64, 3), None, nn.Linear(64, 3)])
            self.decoder = nn.Sequential(
                nn.Linear(3, 64), nn.Unflatten(1, (4, 4, 4)), nn.Upsample(scale_factor=2, mode="bilinear"),
                nn.ConvTranspose2d(4, 1, 3, padding=1),
            )  # fmt: skip

        def forward(self, x):
            h = self.encoder(x).flatten(1)
            loc, _, log_scale = (head and head(h) for head in self.heads)
            q = Independent(Normal(loc, F.softplus(log_scale) + 1e-3), 1)
            z = q.mean + q.stddev * noise.normal(*loc.shape)
            p = Independent(Normal(torch.zeros_like(loc), torch.ones(size=loc.size())), 1)
            return self.decoder(z), kl_divergence(q, p)

    model = nn.DataParallel(noise.fill(VAE()))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scheduler = StepLR(optimizer, step_size=4, gamma=0.5)
    images = torch.sigmoid(noise.normal(12, 1, 8, 8))
    loader = DataLoader(TensorDataset(images, torch.arange(12)), batch_size=4, shuffle=False, drop_last=True)
    losses = []
    while len(losses) < steps:
        for x, _ in loader:
            logits, divergence = model(x)
            loss = (F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + divergence.sum()) / len(x)
            model.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    return losses[:steps]


def gan(noise, steps):
    """A GAN with a gradient penalty, in the style of PyTorch's first years: Variables, two optimizers, .data."""
    generator = noise.fill(nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16, 0.8), nn.ReLU(inplace=True),
                                         nn.Linear(16, 6), nn.Tanh()))  # fmt: skip
    critic = noise.fill(nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(0.2, inplace=True), nn.Linear(16, 1)))
    optimizers = {
        "G": torch.optim.RMSprop(generator.parameters(), lr=1e-3),
        "D": torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.999)),
    }
    losses = []
    for _ in range(steps):
        real = Variable(noise.normal(8, 6))
        fake = generator(Variable(noise.normal(8, 4)))
        mix = torch.rand(8, 1) * 0 + noise.normal(8, 1).sigmoid()
        between = Variable(mix * real.data + (1 - mix) * fake.data, requires_grad=True)
        slope = torch.autograd.grad(
            outputs=critic(between), inputs=between, grad_outputs=torch.ones(size=(8, 1)),
            create_graph=True, retain_graph=True, only_inputs=True,
        )[0]  # fmt: skip
        penalty = ((slope.norm(2, dim=1) - 1) ** 2).mean()
        d_loss = critic(fake.detach()).mean() - critic(real).mean() + 10 * penalty
        optimizers["D"].zero_grad()
        d_loss.backward()
        optimizers["D"].step()
        g_loss = -critic(fake).mean()
        optimizers["G"].zero_grad()
        g_loss.backward()
        optimizers["G"].step()
        losses.append(float(d_loss) + g_loss.data.item())
    return losses


def ppo(noise, steps):
    """The clipped policy-gradient step of an agent with a discrete and a continuous action."""

    class Agent(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(5, 16), nn.Tanh())
            self.kind, self.loc, self.value = nn.Linear(16, 3), nn.Linear(16, 2), nn.Linear(16, 1)
            self.log_scale = nn.Parameter(torch.zeros(1, 2))

        def forward(self, x, kind, move):
            h = self.body(x)
            which = Categorical(logits=self.kind(h))
            loc = self.loc(h)
            where = Normal(loc, self.log_scale.expand_as(loc).exp())
            log_prob = which.log_prob(kind) + where.log_prob(move).sum(1)
            return log_prob, which.entropy() + where.entropy().sum(1), self.value(h).squeeze(-1)

    agent = noise.fill(Agent())
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3, eps=1e-5)
    x, kind, move = noise.normal(16, 5), noise.ints(3, 16), noise.normal(16, 2)
    advantage, returns = noise.normal(16), noise.normal(16)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    with torch.no_grad():
        old, _, _ = agent(x, kind, move)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        log_prob, entropy, value = agent(x, kind, move)
        ratio = (log_prob - old).exp()
        policy = torch.max(-advantage * ratio, -advantage * torch.clamp(ratio, 0.9, 1.1)).mean()
        loss = policy + 0.5 * ((value - returns) ** 2).mean() - 0.01 * entropy.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    return losses


def seq2seq(noise, steps):
    """An encoder, and a decoder that attends to it and is fed its own output at every second step."""

    class Seq2Seq(nn.Module):
        def __init__(self):
            super().__init__()
            self.source, self.target = nn.Embedding(11, 6, padding_idx=1), nn.Embedding(12, 6)
            self.encoder = nn.GRU(6, 8, bidirectional=True)
            self.bridge, self.energy = nn.Linear(16, 8), nn.Linear(24, 1, bias=False)
            self.decoder, self.out = nn.LSTMCell(22, 8), nn.Linear(8, 12)

        def forward(self, source, target):
            states, last = self.encoder(self.source(source))
            h = torch.tanh(self.bridge(torch.cat((last[-2, :, :], last[-1, :, :]), dim=1)))
            c, token = torch.zeros_like(h), target[0]
            mask = (source != 1).permute(1, 0)
            outputs = []
            for t in range(1, len(target)):
                query = h.unsqueeze(1).repeat(1, source.shape[0], 1)
                scores = self.energy(torch.cat((query, states.permute(1, 0, 2)), dim=2)).squeeze(2)
                weights = scores.masked_fill(mask == 0, -1e10).softmax(dim=1).unsqueeze(1)
                read = torch.bmm(weights, states.permute(1, 0, 2)).squeeze(1)
                h, c = self.decoder(torch.cat((self.target(token), read), dim=1), (h, c))
                outputs.append(self.out(h))
                token = target[t] if t % 2 else outputs[-1].argmax(1)
            return torch.stack(outputs)

    model = noise.fill(Seq2Seq())
    source, target = noise.ints(11, 5, 3), noise.ints(12, 6, 3)
    criterion = nn.CrossEntropyLoss(ignore_index=0, label_smoothing=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    scheduler = LambdaLR(optimizer, lambda step: 0.02 * min((step + 1) / 4, 1.0))
    losses = []
    for _ in range(steps):
        outputs = model(source, target)
        loss = criterion(outputs.view(-1, outputs.shape[-1]), target[1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


def train(name, numpy, steps=8):
    """The first losses of one of the programs."""
    return {"vae": vae, "gan": gan, "ppo": ppo, "seq2seq": seq2seq}[name](Noise(numpy), steps)
